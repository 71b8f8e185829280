"""The device's log: counters that only grow, and events for observers."""

from keyflock_client_sim.device.counters import Counters
from keyflock_client_sim.device.device_events import (
    AssignmentEnded,
    AssignmentReceived,
    CallFailed,
    CheckInRefused,
    DeviceEnrolled,
    DeviceEvent,
    EndReason,
    ReportAcked,
)
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.device.session import Session
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Assignment, Receipt, Refusal


class DeviceLog:
    """The device writes this log; nothing that the device does depends on it."""

    def __init__(self) -> None:
        self.counters = Counters()
        self._events: list[DeviceEvent] = []

    def take_events(self) -> tuple[DeviceEvent, ...]:
        """Return the events since the last call, oldest first."""
        taken = tuple(self._events)
        self._events.clear()
        return taken

    def call_sent(self, size_bytes: int) -> None:
        """Record that a body goes out."""
        self.counters.calls_sent += 1
        self.counters.bytes_up += size_bytes

    def call_lost(self, call: str) -> None:
        """Record that no answer will come."""
        self.counters.calls_lost += 1
        self.call_failed(call, "lost")

    def call_failed(self, call: str, error: str) -> None:
        """Record an answer other than the one that the call was made for."""
        self._events.append(CallFailed(call, error))

    def enrolled(self, device: DeviceId, *, is_refresh: bool) -> None:
        """Record that the server has enrolled the device."""
        self._events.append(DeviceEnrolled(device, is_refresh))

    def rejected(self, refusal: Refusal) -> None:
        """Record that a check-in got no work."""
        self.counters.check_ins += 1
        self._events.append(CheckInRefused(refusal.reason, refusal.return_window))

    def assigned(self, assignment: Assignment) -> None:
        """Record that a check-in got an assignment."""
        self.counters.check_ins += 1
        self.counters.assignments += 1
        self._events.append(AssignmentReceived(assignment.task, assignment.round, assignment.model_version))

    def report_acked(self, session: Session, trained: Trained, receipt: Receipt) -> None:
        """Record that the report is in the aggregate."""
        self.counters.reports_acked += 1
        self._events.append(
            ReportAcked(
                round=session.assignment.round,
                model_version=session.assignment.model_version,
                examples=trained.examples,
                delta_bytes=len(trained.delta),
                loss_before=trained.loss_before,
                loss_after=trained.loss_after,
                is_duplicate=receipt.duplicate,
                session_shape=session.shape,
            )
        )

    def assignment_ended(self, session: Session, reason: EndReason, detail: str) -> None:
        """Record that the assignment ended in another way."""
        self.counters.sessions_ended += 1
        self._events.append(
            AssignmentEnded(
                round=session.assignment.round, reason=reason, detail=detail, session_shape=session.shape
            )
        )
