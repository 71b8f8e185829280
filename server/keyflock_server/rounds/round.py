"""The round as a table: (phase, event) → phase. No clock, no store, no event loop.

    COLLECTING ──CloseRequested──▸ CLOSING ──Merged──▸ MERGED ──Stepped──▸ STEPPED ──Held──▸ HELD
        │                                                 │ ◂────Rebased──────  │ ◂──Accepted── │
        ├──Carried────▸ CARRIED                           │                     │ Published     │
        ├──Abandoned──▸ ABANDONED                         └──Summarised──┐      │               │
        ├──Discarded──▸ DISCARDED ◂──────────────────────────────────────┼──────┼───Discarded───┘
        └──Cancelled──▸ CANCELLED                                        ▼      ▼
                                                 CLOSED ◂──PartialsDeleted── PUBLISHED

CLOSING, MERGED, STEPPED and HELD may be cancelled too: what they need may be lost for good. A round that has
not published is discarded in any phase when its population is rolled back behind the version that it trains
from.

A round is held when what it made does not pass the checks of ``releases.checks``: its sum is whole and
durable, and a person decides, on the record.

A round of kind ``train`` is stepped, one of kind ``personalize`` is summarised. A synchronous round counts
the reports of its own cohort; a round of an asynchronous task is a buffer, which counts what arrives while
it is open, whenever that was assigned.

Whoever drives a round writes the phase down before acting on it, so that after a crash the table says what
is left to do. An event that has no row in the table changes nothing: of two processes that close the same
round, the second finds that its event does not happen any more.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final, assert_never

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.task import TaskSpec


class Phase(StrEnum):
    """Where a round stands."""

    #: Devices are assigned and report.
    COLLECTING = "collecting"
    #: No report is taken any more; the partial aggregates are to be merged.
    CLOSING = "closing"
    #: The aggregate is written; the server optimiser is to step.
    MERGED = "merged"
    #: New weights and optimiser state are written; the version is to be published.
    STEPPED = "stepped"
    #: The version is the newest, or the priors are the population's; the partials are to be deleted.
    PUBLISHED = "published"
    #: What the step made did not pass the checks; an operator accepts or discards it.
    HELD = "held"
    CLOSED = "closed"
    #: Too few reports came by the deadline; those that came are in the next round.
    CARRIED = "carried"
    #: Too few reports came by the deadline, and what they brought is gone.
    ABANDONED = "abandoned"
    #: An operator ended the task.
    CANCELLED = "cancelled"
    #: A recorded decision gave up what the phones had brought.
    DISCARDED = "discarded"


#: Phases of rounds that came to a result.
COMMITTED_PHASES: Final = frozenset({Phase.PUBLISHED, Phase.CLOSED})
#: Phases that nothing leaves.
FINAL_PHASES: Final = frozenset(
    {Phase.CLOSED, Phase.CARRIED, Phase.ABANDONED, Phase.CANCELLED, Phase.DISCARDED}
)
#: Phases of rounds that something is left to do for.
LIVE_PHASES: Final = frozenset(Phase) - FINAL_PHASES


@dataclass(frozen=True, slots=True)
class Assigned:
    """A device took a slot."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Reports entered the aggregate, durably."""

    reports: int
    weight: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A device gave its assignment back."""


@dataclass(frozen=True, slots=True)
class Expired:
    """Assignments ran out of time with nothing heard of their devices; their slots are free again."""

    assignments: int


@dataclass(frozen=True, slots=True)
class Redated:
    """The clock was set back behind the round's opening: its time begins anew."""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """The goal is met, or the deadline has come with enough reports."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The aggregate is written."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """The new weights and the optimiser's state are written."""

    #: What was measured of them, as a JSON object of numbers; empty where nothing was.
    figures_json: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """The checks say that the version must not be published without a person's decision."""

    #: Which check, with the numbers.
    detail: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An operator wants the version published all the same."""

    #: The operator's reason.
    detail: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """An operator gives up what the phones have brought."""

    #: Why, and what is given up.
    detail: str


@dataclass(frozen=True, slots=True)
class Rebased:
    """Another task has published meanwhile: the step is to be made again, from the newest version."""


@dataclass(frozen=True, slots=True)
class Published:
    """The new version is the newest."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Summarised:
    """What the phones said together is with the population."""

    #: Its figures, as a JSON object of numbers.
    figures_json: str


@dataclass(frozen=True, slots=True)
class PartialsDeleted:
    """Nothing of the round is left but its result and its row."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Too few reports by the deadline; the next round of the same model version begins with them."""

    detail: str


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Too few reports by the deadline."""

    detail: str
    #: That are given up; whoever decided so may not have heard of the last one yet.
    reports: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operator ended it."""

    detail: str


Event = (
    Assigned
    | Counted
    | Failed
    | Expired
    | Redated
    | CloseRequested
    | Merged
    | Stepped
    | Held
    | Accepted
    | Discarded
    | Rebased
    | Published
    | Summarised
    | PartialsDeleted
    | Carried
    | Abandoned
    | Cancelled
)

#: Which kind of round takes this event; all others happen to every kind.
OF_KIND: Final = MappingProxyType(
    {
        Stepped: TaskKind.TRAIN,
        Held: TaskKind.TRAIN,
        Accepted: TaskKind.TRAIN,
        Rebased: TaskKind.TRAIN,
        Summarised: TaskKind.PERSONALIZE,
    }
)

#: The whole life of a round. What is not here cannot happen.
TRANSITIONS: Final = MappingProxyType(
    {
        (Phase.COLLECTING, Assigned): Phase.COLLECTING,
        (Phase.COLLECTING, Counted): Phase.COLLECTING,
        (Phase.COLLECTING, Failed): Phase.COLLECTING,
        (Phase.COLLECTING, Expired): Phase.COLLECTING,
        (Phase.COLLECTING, Redated): Phase.COLLECTING,
        (Phase.COLLECTING, CloseRequested): Phase.CLOSING,
        (Phase.COLLECTING, Carried): Phase.CARRIED,
        (Phase.COLLECTING, Abandoned): Phase.ABANDONED,
        (Phase.COLLECTING, Cancelled): Phase.CANCELLED,
        (Phase.CLOSING, Cancelled): Phase.CANCELLED,
        (Phase.MERGED, Cancelled): Phase.CANCELLED,
        (Phase.STEPPED, Cancelled): Phase.CANCELLED,
        (Phase.HELD, Cancelled): Phase.CANCELLED,
        (Phase.COLLECTING, Discarded): Phase.DISCARDED,
        (Phase.CLOSING, Discarded): Phase.DISCARDED,
        (Phase.MERGED, Discarded): Phase.DISCARDED,
        (Phase.STEPPED, Discarded): Phase.DISCARDED,
        (Phase.HELD, Discarded): Phase.DISCARDED,
        (Phase.STEPPED, Held): Phase.HELD,
        (Phase.HELD, Accepted): Phase.STEPPED,
        (Phase.CLOSING, Merged): Phase.MERGED,
        (Phase.MERGED, Stepped): Phase.STEPPED,
        (Phase.STEPPED, Rebased): Phase.MERGED,
        (Phase.STEPPED, Published): Phase.PUBLISHED,
        (Phase.MERGED, Summarised): Phase.PUBLISHED,
        (Phase.PUBLISHED, PartialsDeleted): Phase.CLOSED,
    }
)


class IllegalEvent(Exception):
    """Fault of the server: no such row in the table for this kind of round, or the counts would break.

    Nothing has changed.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of one task, at one moment."""

    id: RoundId
    task: TaskName
    population: PopulationName
    #: Counts the task's rounds from 1, abandoned ones too.
    sequence: int
    #: The version that phones train from.
    base_version: ModelVersion
    #: The task as it was when the round opened.
    spec: TaskSpec
    opened_at: datetime
    deadline_at: datetime
    phase: Phase = Phase.COLLECTING
    #: Devices that took a slot: the cohort.
    assigned: int = 0
    #: Of these, reports in the aggregate.
    counted: int = 0
    #: Of these, assignments given back.
    failed: int = 0
    #: Of these, assignments that ran out of time.
    expired: int = 0
    #: Reports of missed rounds of the same version that its aggregate began with.
    carried: int = 0
    #: Sum of the weights of all reports in the aggregate.
    weight: float = 0.0
    closed_at: datetime | None = None
    #: The version that it made.
    result_version: ModelVersion | None = None
    #: Why it ended without a result, or is held; of one that was held and accepted, both reasons.
    detail: str = ""
    #: What a ``personalize`` round found, or what was measured of a step, as a JSON object of numbers.
    figures_json: str = ""
    #: Whether an operator wants the version that was made, whatever the checks say of it.
    is_accepted: bool = False

    @property
    def is_async(self) -> bool:
        """Whether it is a buffer, and not bound to a cohort of its own."""
        return self.spec.round.is_async

    @property
    def reports(self) -> int:
        """All reports in the aggregate."""
        return self.counted + self.carried

    @property
    def outstanding(self) -> int:
        """How many devices of a synchronous round's cohort have said nothing yet."""
        return self.assigned - self.counted - self.failed - self.expired

    @property
    def slots(self) -> int:
        """Devices that a synchronous round assigns."""
        return self.spec.round.slots_for(self.carried)

    @property
    def slots_left(self) -> int:
        """Devices that a synchronous round may still assign."""
        return max(0, self.slots - self.occupied) if self.phase is Phase.COLLECTING else 0

    @property
    def occupied(self) -> int:
        """Slots that are taken: given back or run out of time, they are free again."""
        return self.assigned - self.failed - self.expired

    @property
    def is_committed(self) -> bool:
        """Whether it came to a result."""
        return self.phase in COMMITTED_PHASES

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase in FINAL_PHASES


def advance(current: Round, event: Event, at: datetime) -> Round:
    """The round after ``event``.

    Args:
        current: The round before.
        event: What happened.
        at: When; kept as ``closed_at`` of a round that ends, and as ``opened_at`` of one that is redated.
    Guarantees:
        ``counted + failed + expired <= assigned``, but in a buffer; a round in a final phase never leaves it.
    Raises:
        IllegalEvent: the table has no such row, or not for this kind of round; more would report than were
            assigned, or reports would be counted that are none or weigh nothing, or others would be given up
            than are there.
    """
    phase = TRANSITIONS.get((current.phase, type(event)))
    if phase is None:
        raise IllegalEvent(f"{type(event).__name__} does not happen to a round that is {current.phase}")
    if OF_KIND.get(type(event), current.spec.kind) is not current.spec.kind:
        raise IllegalEvent(f"{type(event).__name__} does not happen to a round of kind {current.spec.kind}")
    after = _applied(replace(current, phase=phase), event)
    if after.outstanding < 0 and not after.is_async:
        raise IllegalEvent(f"{event} would count more devices than the {current.assigned} assigned")
    if isinstance(event, Redated):
        after = replace(after, opened_at=at, deadline_at=at + (current.deadline_at - current.opened_at))
    ends = phase in FINAL_PHASES or phase is Phase.PUBLISHED
    return replace(after, closed_at=at) if ends and after.closed_at is None else after


def _applied(current: Round, event: Event) -> Round:  # noqa: C901, PLR0911, PLR0912 - one case an event
    match event:
        case Assigned():
            if current.occupied >= current.slots and not current.is_async:
                raise IllegalEvent(f"all {current.occupied} slots are taken")
            return replace(current, assigned=current.assigned + 1)
        case Counted(reports, weight):
            if reports < 1 or not 0.0 < weight < math.inf:
                raise IllegalEvent(f"{event} counts nothing that a mean can be taken of")
            return replace(current, counted=current.counted + reports, weight=current.weight + weight)
        case Failed():
            return replace(current, failed=current.failed + 1)
        case Expired(assignments):
            if assignments < 1:
                raise IllegalEvent(f"{event} says nothing")
            return replace(current, expired=current.expired + assignments)
        case Published(version):
            return replace(current, result_version=version)
        case Stepped(figures_json) | Summarised(figures_json):
            return replace(current, figures_json=figures_json)
        case Abandoned(detail, reports):
            if reports != current.reports:
                raise IllegalEvent(f"{reports} reports would be given up, and {current.reports} are there")
            return replace(current, detail=detail)
        case Held() if current.is_accepted:
            raise IllegalEvent("an operator has accepted what would be held")
        case Carried(detail) | Cancelled(detail) | Held(detail) | Discarded(detail):
            return replace(current, detail=detail)
        case Accepted(detail):
            return replace(current, detail=f"{current.detail} Accepted: {detail}", is_accepted=True)
        case Rebased():
            # What was accepted was another version: the next one is checked anew.
            return replace(current, is_accepted=False, detail="", figures_json="")
        case Redated() | CloseRequested() | Merged() | PartialsDeleted():
            return current
        case _:
            assert_never(event)
