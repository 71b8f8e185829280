"""A device reports these events to observers: a fleet's statistics, a progress display, an SDK's log."""

from dataclasses import dataclass
from enum import StrEnum

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import RefusalReason, ReturnWindow


class EndReason(StrEnum):
    """How an assignment ended, other than acknowledged."""

    #: The server wants no more reports in this round.
    DROPPED = "dropped"
    #: The server wants it trained on a newer model.
    REBASED = "rebased"
    #: The server refused the report, or another call about it, for good.
    REFUSED = "refused"
    #: The round is over.
    ROUND_OVER = "gone"
    #: The assignment's time ran out on the phone.
    EXPIRED = "expired"
    #: The phone returned it, and the server has taken note.
    RETURNED = "returned"
    #: The device lost its identity, and with it the assignment.
    IDENTITY_RESET = "disowned"


@dataclass(frozen=True, slots=True)
class DeviceEnrolled:
    """The server has enrolled the device under this id."""

    device: DeviceId
    #: True: the same device with a new token.
    is_refresh: bool


@dataclass(frozen=True, slots=True)
class CheckInRefused:
    """The device checked in, and there is no work now."""

    reason: RefusalReason
    return_window: ReturnWindow


@dataclass(frozen=True, slots=True)
class AssignmentReceived:
    """The device checked in, and got work."""

    task: TaskName
    round: RoundId
    model_version: ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportAcked:
    """The report is in the aggregate."""

    round: RoundId
    model_version: ModelVersion
    examples: int
    delta_bytes: int
    loss_before: float | None
    loss_after: float | None
    #: Whether an earlier attempt had arrived already.
    is_duplicate: bool
    session_shape: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentEnded:
    """The assignment is over without a report in the aggregate, as far as the device knows."""

    round: RoundId
    reason: EndReason
    #: The problem's code, the cause of failure, or empty.
    detail: str
    session_shape: str


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call did not get the answer it was made for."""

    #: The name of the endpoint.
    call: str
    #: The problem's code, ``http_<status>``, ``lost``, ``unreadable`` or ``corrupt``.
    error: str


DeviceEvent = (
    DeviceEnrolled | CheckInRefused | AssignmentReceived | ReportAcked | AssignmentEnded | CallFailed
)
