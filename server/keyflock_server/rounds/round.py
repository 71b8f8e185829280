"""The round as a table: (phase, event) → phase. No clock, no store, no event loop.

    COLLECTING ──CloseRequested──▸ CLOSING ──Merged──▸ MERGED ──Stepped──▸ STEPPED ──Held──▸ HELD
        │                                                 │ ◂────Rebased──────  │ ◂──Accepted── │
        ├──Carried────▸ CARRIED                           │                     │ Published     │
        ├──Abandoned──▸ ABANDONED                         └──Summarised──┐      │               │
        ├──Discarded──▸ DISCARDED ◂──────────────────────────────────────┼──────┼───Discarded───┘
        └──Cancelled──▸ CANCELLED                                        ▼      ▼
                                                 CLOSED ◂──PartialsDeleted── PUBLISHED

CLOSING, MERGED, STEPPED and HELD may be cancelled too, because data that they need may be lost. A rollback
behind a round's base version discards the round in any phase before PUBLISHED. A round is held when its
version fails the checks of ``releases.checks``: its sum is complete and durable, and an operator decides.

A round of kind ``train`` is stepped, any other is summarised. A synchronous round counts the reports of its
own cohort; a round of an asynchronous task is a buffer, which counts every report that arrives while it is
open. The phase is written before it is acted on, so that after a crash the row says what
is left to do. An event without a row in the table changes nothing: of two processes that close the same
round, the second is refused.
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
    """The phase of a round."""

    #: Devices are assigned and report.
    COLLECTING = "collecting"
    #: No report is accepted any more; the partial aggregates are to be merged.
    CLOSING = "closing"
    #: The aggregate is written; the server optimiser is to step.
    MERGED = "merged"
    #: New weights and optimiser state are written; the version is to be published.
    STEPPED = "stepped"
    #: The version is the newest, or what phones said is stored; the partial aggregates are to be deleted.
    PUBLISHED = "published"
    #: The version did not pass the checks; an operator accepts or discards it.
    HELD = "held"
    CLOSED = "closed"
    #: Too few reports arrived by the deadline; they were carried into the next round.
    CARRIED = "carried"
    #: Too few reports arrived by the deadline; they were dropped.
    ABANDONED = "abandoned"
    #: An operator ended the task.
    CANCELLED = "cancelled"
    #: A recorded decision dropped the reports.
    DISCARDED = "discarded"


#: Phases of rounds with a result.
COMMITTED_PHASES: Final = frozenset({Phase.PUBLISHED, Phase.CLOSED})
#: Phases that a round never leaves.
FINAL_PHASES: Final = frozenset(
    {Phase.CLOSED, Phase.CARRIED, Phase.ABANDONED, Phase.CANCELLED, Phase.DISCARDED}
)
#: Phases of rounds that are not over.
LIVE_PHASES: Final = frozenset(Phase) - FINAL_PHASES


@dataclass(frozen=True, slots=True)
class SlotTaken:
    """A device took a slot."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Reports were added to the aggregate, durably."""

    reports: int
    weight: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A device failed, and its slot is free again."""


@dataclass(frozen=True, slots=True)
class Expired:
    """Assignments expired without a message from their devices; their slots are free again."""

    assignments: int


@dataclass(frozen=True, slots=True)
class DeadlineReset:
    """The clock was set back behind the round's opening: its deadline begins again."""


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """The goal is met, or the deadline has come with enough reports."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The aggregate is written."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """The new weights and the optimiser's state are written. Their figures are a JSON object, or empty."""

    figures_json: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A check failed: the version is published only if an operator accepts it. The detail names the check."""

    detail: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """An operator accepts the held version. The detail is the operator's reason."""

    detail: str


@dataclass(frozen=True, slots=True)
class Discarded:
    """The round's reports are dropped by a decision. The detail says why, and what is dropped."""

    detail: str


@dataclass(frozen=True, slots=True)
class Rebased:
    """Another task has published meanwhile: the step is repeated from the newest version."""


@dataclass(frozen=True, slots=True)
class Published:
    """The new version is the newest."""

    version: ModelVersion


@dataclass(frozen=True, slots=True)
class Summarised:
    """What the phones said together is stored: priors, or an evaluation. Its figures are a JSON object."""

    figures_json: str


@dataclass(frozen=True, slots=True)
class PartialsDeleted:
    """The partial aggregates are deleted: only the round's result and its row are left."""


@dataclass(frozen=True, slots=True)
class Carried:
    """Too few reports arrived by the deadline; the next round of the same model version begins with them."""

    detail: str


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Too few reports arrived by the deadline; they are dropped. Their number guards against a late one."""

    detail: str
    reports: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An operator cancelled the task."""

    detail: str


RoundEvent = (
    SlotTaken
    | Counted
    | Failed
    | Expired
    | DeadlineReset
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

#: The kinds of round that an event applies to; all other events apply to every kind.
KINDS_OF_EVENT: Final = MappingProxyType(
    {
        Stepped: frozenset({TaskKind.TRAIN}),
        Held: frozenset({TaskKind.TRAIN}),
        Accepted: frozenset({TaskKind.TRAIN}),
        Rebased: frozenset({TaskKind.TRAIN}),
        Summarised: frozenset({TaskKind.PERSONALIZE, TaskKind.EVALUATE}),
    }
)

#: All legal transitions of a round.
TRANSITIONS: Final = MappingProxyType(
    {
        (Phase.COLLECTING, SlotTaken): Phase.COLLECTING,
        (Phase.COLLECTING, Counted): Phase.COLLECTING,
        (Phase.COLLECTING, Failed): Phase.COLLECTING,
        (Phase.COLLECTING, Expired): Phase.COLLECTING,
        (Phase.COLLECTING, DeadlineReset): Phase.COLLECTING,
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


class IllegalRoundEvent(Exception):
    """Fault of the server: the event is not legal in this phase and kind of round; nothing has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The state of one round of a task."""

    id: RoundId
    task: TaskName
    population: PopulationName
    #: The round's number within its task, from 1; abandoned rounds count.
    sequence: int
    #: The version that phones train from; of an ``evaluate`` round, the candidate.
    base_version: ModelVersion
    #: The task's spec when the round opened.
    spec: TaskSpec
    opened_at: datetime
    deadline_at: datetime
    phase: Phase = Phase.COLLECTING
    #: Number of devices that took a slot: the cohort.
    assigned: int = 0
    #: Number of these whose reports are in the aggregate.
    counted: int = 0
    #: Number of these that failed.
    failed: int = 0
    #: Number of these that expired.
    expired: int = 0
    #: Number of reports that were carried over from missed rounds of the same version.
    carried: int = 0
    #: Sum of the weights of all reports in the aggregate.
    weight: float = 0.0
    closed_at: datetime | None = None
    #: The version that the round made.
    result_version: ModelVersion | None = None
    #: Why it ended without a result, or is held; both reasons if it was held and accepted.
    detail: str = ""
    #: The figures of a step, or of what phones said together, as a JSON object of numbers.
    figures_json: str = ""
    #: Whether an operator has accepted the version in spite of the checks.
    is_accepted: bool = False

    @property
    def is_async(self) -> bool:
        """Return whether the round is a buffer of an asynchronous task."""
        return self.spec.round.is_async

    @property
    def reports(self) -> int:
        """Return the number of reports in the aggregate."""
        return self.counted + self.carried

    @property
    def outstanding(self) -> int:
        """Return how many devices of a synchronous round's cohort have not answered yet."""
        return self.assigned - self.counted - self.failed - self.expired

    @property
    def slots(self) -> int:
        """Return the number of devices that a synchronous round assigns."""
        return self.spec.round.slots_for(self.carried)

    @property
    def slots_left(self) -> int:
        """Return the number of devices that a synchronous round may still assign."""
        return max(0, self.slots - self.slots_taken) if self.phase is Phase.COLLECTING else 0

    @property
    def slots_taken(self) -> int:
        """Return the number of taken slots; failed and expired assignments have freed theirs."""
        return self.assigned - self.failed - self.expired

    @property
    def is_committed(self) -> bool:
        """Return whether the round has a result."""
        return self.phase in COMMITTED_PHASES

    @property
    def is_over(self) -> bool:
        """Return whether the round is in a final phase."""
        return self.phase in FINAL_PHASES


def advance(current: Round, event: RoundEvent, at: datetime) -> Round:
    """Return the round after ``event``.

    Args:
        current: The round before.
        event: The event.
        at: The event's time: ``closed_at`` of a round that ends, ``opened_at`` after a deadline reset.
    Guarantees:
        ``counted + failed + expired <= assigned``, except in a buffer; a round never leaves a final phase.
    Raises:
        IllegalRoundEvent: the table has no such row for this kind of round, or the event's numbers do not fit
            the round's counts.
    """
    phase = TRANSITIONS.get((current.phase, type(event)))
    if phase is None:
        raise IllegalRoundEvent(f"{type(event).__name__} does not happen to a round that is {current.phase}")
    if current.spec.kind not in KINDS_OF_EVENT.get(type(event), frozenset(TaskKind)):
        raise IllegalRoundEvent(
            f"{type(event).__name__} does not happen to a round of kind {current.spec.kind}"
        )
    after = _apply(current if phase is current.phase else replace(current, phase=phase), event)
    if after.outstanding < 0 and not after.is_async:
        raise IllegalRoundEvent(f"{event} would count more devices than the {current.assigned} assigned")
    if isinstance(event, DeadlineReset):
        after = replace(after, opened_at=at, deadline_at=at + (current.deadline_at - current.opened_at))
    ends = phase in FINAL_PHASES or phase is Phase.PUBLISHED
    return replace(after, closed_at=at) if ends and after.closed_at is None else after


def _apply(current: Round, event: RoundEvent) -> Round:  # noqa: C901, PLR0911, PLR0912 - one case an event
    match event:
        case SlotTaken():
            if current.slots_taken >= current.slots and not current.is_async:
                raise IllegalRoundEvent(f"all {current.slots_taken} slots are taken")
            return replace(current, assigned=current.assigned + 1)
        case Counted(reports, weight):
            if reports < 1 or not 0.0 < weight < math.inf:
                raise IllegalRoundEvent(f"{event} counts nothing that a mean can be taken of")
            return replace(current, counted=current.counted + reports, weight=current.weight + weight)
        case Failed():
            return replace(current, failed=current.failed + 1)
        case Expired(assignments):
            if assignments < 1:
                raise IllegalRoundEvent(f"{event} says nothing")
            return replace(current, expired=current.expired + assignments)
        case Published(version):
            return replace(current, result_version=version)
        case Stepped(figures_json) | Summarised(figures_json):
            return replace(current, figures_json=figures_json)
        case Abandoned(detail, reports):
            if reports != current.reports:
                raise IllegalRoundEvent(
                    f"{reports} reports would be given up, and {current.reports} are there"
                )
            return replace(current, detail=detail)
        case Held() if current.is_accepted:
            raise IllegalRoundEvent("an operator has accepted what would be held")
        case Carried(detail) | Cancelled(detail) | Held(detail) | Discarded(detail):
            return replace(current, detail=detail)
        case Accepted(detail):
            return replace(current, detail=f"{current.detail} Accepted: {detail}", is_accepted=True)
        case Rebased():
            # The accepted version is replaced by another one, which is checked again.
            return replace(current, is_accepted=False, detail="", figures_json="")
        case DeadlineReset() | CloseRequested() | Merged() | PartialsDeleted():
            return current
        case _:
            assert_never(event)
