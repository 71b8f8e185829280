"""What happened to a device, for those who watch: a fleet's books, a progress display, an SDK's log."""

from dataclasses import dataclass
from enum import StrEnum

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import RefusalReason, ReturnWindow


class Ending(StrEnum):
    """How an assignment ended, other than acknowledged."""

    #: The server wants no more reports in this round.
    DROPPED = "dropped"
    #: The server wants it trained on a newer model.
    REBASED = "rebased"
    #: The server refused the report, or another call about it, for good.
    REFUSED = "refused"
    #: The round is over.
    GONE = "gone"
    #: Its time ran out on the phone.
    EXPIRED = "expired"
    #: Given back, and the server has taken note.
    RETURNED = "returned"
    #: The device lost its identity, and with it the assignment.
    DISOWNED = "disowned"


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The server knows the device, under this id."""

    device: DeviceId
    #: True: the same device with a new token.
    is_refresh: bool


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Checked in, and there is no work now."""

    reason: RefusalReason
    return_window: ReturnWindow


@dataclass(frozen=True, slots=True)
class Assigned:
    """Checked in, and got work."""

    task: TaskName
    round: RoundId
    model_version: ModelVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """The report is in the aggregate."""

    round: RoundId
    model_version: ModelVersion
    examples: int
    delta_bytes: int
    loss_before: float | None
    loss_after: float | None
    #: An earlier sending had arrived already.
    is_duplicate: bool
    session_shape: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The assignment is over without a report in the aggregate, as far as the device knows."""

    round: RoundId
    ending: Ending
    #: The problem's code, the cause of failure, or empty.
    detail: str
    session_shape: str


@dataclass(frozen=True, slots=True)
class Troubled:
    """A call did not get the answer it was made for."""

    #: Name of the endpoint.
    call: str
    #: The problem's code, ``http_<status>``, ``lost``, ``unreadable`` or ``corrupt``.
    trouble: str


Notice = Enrolled | TurnedAway | Assigned | Acked | Ended | Troubled
