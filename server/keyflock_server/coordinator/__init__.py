"""The one hinge between the pure core and the shell: it asks the core, and does what the core describes."""

from keyflock_server.coordinator.coordinator import Coordinator
from keyflock_server.coordinator.enrolment import EnrolledDevice
from keyflock_server.coordinator.events import Observer, Silent
from keyflock_server.coordinator.surroundings import Surroundings, random_id
from keyflock_server.coordinator.workbench import Workbench

__all__ = ["Coordinator", "EnrolledDevice", "Observer", "Silent", "Surroundings", "Workbench", "random_id"]
