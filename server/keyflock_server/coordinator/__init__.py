"""The coordinator connects the pure core to the store: it asks the core, and does what the core decides."""

from keyflock_server.coordinator.compute_thread import ComputeThread
from keyflock_server.coordinator.coordinator import Coordinator
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.events import NullObserver, Observer
from keyflock_server.coordinator.group_commit import GroupCommit

__all__ = [
    "ComputeThread",
    "Coordinator",
    "Dependencies",
    "GroupCommit",
    "NullObserver",
    "Observer",
]
