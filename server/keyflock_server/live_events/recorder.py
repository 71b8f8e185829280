"""The recorder keeps those of the coordinator's events that only this process knows: alarms, quarantines."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from keyflock_server.coordinator.events import NullObserver
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.operator.events import Alarm, EventKind

#: What happens beyond this between two passes is not told.
_MAX_WAITING: Final = 256


@dataclass(frozen=True, slots=True)
class ProcessEvent:
    """An event of this process that waits for the next pass."""

    kind: EventKind
    task: TaskName | None = None
    alarm: Alarm | None = None


class EventRecorder(NullObserver):
    """Records events until the watch takes them; satisfies the coordinator's ``Observer``."""

    def __init__(self) -> None:
        self._waiting: deque[ProcessEvent] = deque(maxlen=_MAX_WAITING)

    def taken(self) -> list[ProcessEvent]:
        """Return what was recorded since the last call."""
        events = list(self._waiting)
        self._waiting.clear()
        return events

    def quarantined(self, task: TaskName) -> None:
        """Record that a device was quarantined."""
        self._waiting.append(ProcessEvent(EventKind.DEVICE_QUARANTINED, task))

    def flush_failed(self, task: TaskName, error: Exception) -> None:  # noqa: ARG002 - the log has it
        """Record that a micro-batch could not be committed."""
        self._record(Alarm.FLUSH_FAILED, task)

    def task_stuck(self, task: TaskName, error: Exception) -> None:  # noqa: ARG002 - the log has it
        """Record that a task's round could not go on."""
        self._record(Alarm.TASK_STUCK, task)

    def store_unreachable(self, error: Exception) -> None:  # noqa: ARG002 - the log has it
        """Record that a pass could not read the store."""
        self._record(Alarm.STORE_UNREACHABLE)

    def housekeeping_failed(self, error: Exception) -> None:  # noqa: ARG002 - the log has it
        """Record that counts could not be written or read."""
        self._record(Alarm.HOUSEKEEPING_FAILED)

    def violations_withheld(self, task: TaskName, devices: int) -> None:  # noqa: ARG002 - the log has it
        """Record that most reports of a round were rejected."""
        self._record(Alarm.REPORTS_REJECTED, task)

    def assignments_expired(self, task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:  # noqa: ARG002 - the log has them
        """Record that half of a round's slots were given to silent devices."""
        if is_mostly:
            self._record(Alarm.DEVICES_SILENT, task)

    def _record(self, alarm: Alarm, task: TaskName | None = None) -> None:
        self._waiting.append(ProcessEvent(EventKind.ALARM, task, alarm))
