"""Devices that come before their return window get the same refusal again, from memory.

Only refusals of this process count. A device that has an assignment gets it again, however early it comes.
"""

from collections.abc import Sequence
from datetime import datetime

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.return_windows import ReturnWindows
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow


class EarlyCheckIns:
    """Remembers which devices this process has told to wait.

    Args:
        deps: The clock.
        registry: The tasks. When one is added or changes its status, every device may come again: a phone
            that was told to wait for hours must not do so for a task that is there now.
    """

    def __init__(self, deps: Dependencies, registry: TaskRegistry) -> None:
        self._deps = deps
        self._registry = registry
        self._windows = ReturnWindows()
        self._revision = registry.revision

    def repeated_refusal(
        self, identity: DeviceIdentity, tasks: Sequence[TaskState], now: datetime
    ) -> Refusal | None:
        """Return the device's last refusal again, if it comes too early and has no assignment.

        Args:
            identity: The device that checks in.
            tasks: The tasks of its population.
            now: The current time.
        """
        if self._registry.revision != self._revision:
            self._windows.clear()
            self._revision = self._registry.revision
        device = identity.device
        early = self._windows.repeated_refusal(device, now, identity.generation)
        if early is None or any(state.has_open_assignment(device, now) for state in tasks):
            return None
        return early

    def remember(self, identity: DeviceIdentity, refusal: Refusal, now: datetime) -> None:
        """Remember the refusal that the device gets now.

        A device that is not eligible may be with its next token, which carries its new tier and tags.
        """
        judged = identity.generation if refusal.reason is RefusalReason.NOT_ELIGIBLE else None
        self._windows.remember(identity.device, refusal, now, judged)

    def remember_work_done(self, device: DeviceId, window: ReturnWindow) -> None:
        """Remember that the device has done its work, and when it may come for more."""
        rest = Refusal(reason=RefusalReason.TOO_SOON, return_window=window, detail="It was here just now.")
        self._windows.remember(device, rest, self._deps.clock())

    def forget(self, device: DeviceId) -> None:
        """Forget the device's refusal, so that it may come at any time."""
        self._windows.forget(device)
