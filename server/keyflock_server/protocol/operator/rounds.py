"""Operators' messages and calls about rounds."""

from datetime import datetime
from typing import Final, Literal

from msgspec import Struct

from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.roles import Role

#: The states of the state table of rounds.
RoundPhase = Literal[
    "collecting",
    "closing",
    "merged",
    "stepped",
    "published",
    "held",
    "closed",
    "carried",
    "abandoned",
    "cancelled",
    "discarded",
]


class RoundView(Struct, frozen=True, kw_only=True):
    """A round: its present state, or how it ended."""

    id: str
    task: str
    sequence: int
    #: The round's state in the state table of rounds.
    phase: str
    #: The version that phones train from; of an evaluate round, the candidate.
    model_version: int
    #: For an evaluate round: the version that the candidate is compared with.
    baseline_version: int | None = None
    goal: int
    minimum: int
    #: Number of assignments made.
    assigned: int
    #: Number of reports that are durably in the aggregate.
    counted: int
    #: Number of reports carried from missed rounds, with which its aggregate began.
    carried: int = 0
    #: Sum of the reports' weights.
    weight: float
    #: Number of assignments that phones returned.
    failed: int = 0
    #: Number of assignments that expired without a word from their devices.
    expired: int = 0
    opened_at: datetime
    deadline_at: datetime
    closed_at: datetime | None = None
    #: The version that it made, if it was committed.
    result_version: int | None = None
    #: Why it has no result, or why it is held.
    detail: str = ""
    #: What reports wait for that have arrived and are not acknowledged yet; empty where none waits.
    waiting_reason: str = ""
    #: Measurements of the version that it made; for other kinds, means over its phones.
    figures: dict[str, float] | None = None
    #: For a train round: the text on which its version is checked before it becomes the newest, in words.
    anchor_text: str = ""
    #: Verdicts on its reports: refused uploads by cause, and clipped ones.
    verdicts: dict[str, int] = {}
    #: Whether its stored sums may hold so few phones that one's update can be inferred.
    is_unsafe_flush: bool = False
    #: The norm scale for its deltas, in units of the parameters, by codec table.
    norm_scales: dict[str, float] = {}


class RoundQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rounds a list has."""

    #: A name of the population.
    population: str | None = None
    #: The task's name, or its name with a number.
    task: str | None = None
    phase: RoundPhase | None = None


class RoundList(Struct, frozen=True, kw_only=True):
    """A page of rounds, newest first."""

    items: list[RoundView]
    #: Where the next page begins; null after the last one.
    next: str | None = None


class SessionCount(Struct, frozen=True, kw_only=True):
    """Assignments of a round that ended alike."""

    #: assigned (nothing was heard yet), counted, failed or expired.
    state: str
    #: What their phones went through, one character a step (docs/protocol.md); empty where none has said so.
    shape: str
    count: int


class RoundProgress(Struct, frozen=True, kw_only=True):
    """How far a round's devices came, how long they took, and why some were lost."""

    round: str
    opened_at: datetime
    closed_at: datetime | None
    #: Numbers of assignments that came as far as each step, or further.
    assigned: int
    downloaded: int
    trained: int
    uploaded: int
    counted: int
    #: The same assignments by how they ended, the most frequent first.
    sessions: list[SessionCount]
    #: Time from assignment to counted report: of the first, half of, and 95 % of the reports.
    first_report_s: float | None
    p50_report_s: float | None
    p95_report_s: float | None
    #: Refused uploads and clipped reports, by verdict.
    verdicts: dict[str, int]
    #: Assignments that phones gave back, by the cause that they named.
    failures: dict[str, int]


class AbandonOrder(ReasonOrder, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The end of a collecting round without a result."""

    #: Whether its reports are dropped although its task would carry them into the next round.
    drop: bool = False


ROUNDS: Final = OperatorCall(
    "rounds",
    "GET",
    "/admin/v1/rounds",
    Role.VIEWER,
    RoundQuery,
    NoBody,
    RoundList,
    "List rounds, newest first.",
)
ROUND: Final = OperatorCall(
    "round", "GET", "/admin/v1/rounds/{round}", Role.VIEWER, Query, NoBody, RoundView, "Show a round."
)
ROUND_PROGRESS: Final = OperatorCall(
    "round_progress",
    "GET",
    "/admin/v1/rounds/{round}/progress",
    Role.VIEWER,
    Query,
    NoBody,
    RoundProgress,
    "Show how far a round's devices came, how long they took, and why some were lost.",
)
ACCEPT_ROUND: Final = OperatorCall(
    "accept_round",
    "POST",
    "/admin/v1/rounds/{round}/accept",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    RoundView,
    "Publish what a held round made, although it did not pass the checks.",
)
DISCARD_ROUND: Final = OperatorCall(
    "discard_round",
    "POST",
    "/admin/v1/rounds/{round}/discard",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    RoundView,
    "Discard what the phones of a held round brought.",
)
CLOSE_ROUND: Final = OperatorCall(
    "close_round",
    "POST",
    "/admin/v1/rounds/{round}/close",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    RoundView,
    "Close a collecting round now, with the reports that it has, if they are its minimum.",
)
ABANDON_ROUND: Final = OperatorCall(
    "abandon_round",
    "POST",
    "/admin/v1/rounds/{round}/abandon",
    Role.OPERATOR,
    Query,
    AbandonOrder,
    RoundView,
    "End a collecting round now, without a result; its reports are carried or dropped, as its task says.",
)

CALLS: Final = (
    ROUNDS,
    ROUND,
    ROUND_PROGRESS,
    CLOSE_ROUND,
    ABANDON_ROUND,
    ACCEPT_ROUND,
    DISCARD_ROUND,
)
