"""What a device has been through: counts that only grow, and notices for those who watch."""

from keyflock_client_sim.device.events import Trained
from keyflock_client_sim.device.notices import (
    Acked,
    Assigned,
    Ended,
    Ending,
    Enrolled,
    Notice,
    Troubled,
    TurnedAway,
)
from keyflock_client_sim.device.session import Session
from keyflock_client_sim.device.tally import Tally
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import Assignment, Receipt, Refusal


class Logbook:
    """Written by the device; nothing that the device does depends on it."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._notices: list[Notice] = []

    def take_notices(self) -> tuple[Notice, ...]:
        """Notices since the last taking, oldest first."""
        taken = tuple(self._notices)
        self._notices.clear()
        return taken

    def sent(self, size_bytes: int) -> None:
        """A body goes out."""
        self.tally.calls_sent += 1
        self.tally.bytes_up += size_bytes

    def lost(self, call: str) -> None:
        """No answer will come."""
        self.tally.calls_lost += 1
        self.trouble(call, "lost")

    def trouble(self, call: str, word: str) -> None:
        """The answer is not the one that the call was made for."""
        self._notices.append(Troubled(call, word))

    def enrolled(self, device: DeviceId, *, is_refresh: bool) -> None:
        """The server knows the device."""
        self._notices.append(Enrolled(device, is_refresh))

    def turned_away(self, refusal: Refusal) -> None:
        """No work now."""
        self.tally.check_ins += 1
        self._notices.append(TurnedAway(refusal.reason, refusal.return_window))

    def assigned(self, assignment: Assignment) -> None:
        """Work."""
        self.tally.check_ins += 1
        self.tally.assignments += 1
        self._notices.append(Assigned(assignment.task, assignment.round, assignment.model_version))

    def acked(self, session: Session, trained: Trained, receipt: Receipt) -> None:
        """The report is in the aggregate."""
        self.tally.reports_acked += 1
        self._notices.append(
            Acked(
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

    def ended(self, session: Session, ending: Ending, detail: str) -> None:
        """The assignment ended in another way."""
        self.tally.sessions_ended += 1
        self._notices.append(
            Ended(round=session.assignment.round, ending=ending, detail=detail, session_shape=session.shape)
        )
