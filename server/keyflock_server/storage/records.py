"""The rows, as immutable values. What a row means is said here; how it is stored, in ``tables``."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
    UserDigest,
)
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.rounds.tuning import Fate, Outcome, RoundHistory

#: Given so long, a phone that says nothing is silent, though its round's end has cut its time short.
_ENOUGH_TIME: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationRecord:
    """All phones that share one model."""

    name: PopulationName
    created_at: datetime
    #: The newest version, which rounds start from and keyboards serve.
    latest_version: ModelVersion
    #: ``ModelConfig`` as JSON.
    config_json: str
    vocabulary_digest: str
    #: ``PopulationPersonalisation`` as JSON; None until a ``personalize`` round has closed.
    personalisation_json: bytes | None = None
    #: Where the running average of the versions lies; None where keyboards serve the newest itself.
    average_key: str | None = None
    #: Target words of the anchor text that versions are checked on; None: version 0 came without one.
    anchor_tokens: int | None = None
    #: Loss on the anchor text of the version that a person last chose: version 0, one that was accepted, or
    #: one that the population was rolled back to.
    anchor_loss_chosen: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task and where it stands."""

    spec: TaskSpec
    status: TaskStatus
    created_at: datetime
    #: Where the server optimiser's state lies; None before the first step.
    optimizer_state_key: str | None = None
    #: ``aggregation.norm_scale``'s scales as JSON; None before the first.
    norm_scales_json: bytes | None = None

    @property
    def name(self) -> TaskName:
        """What the operator calls it."""
        return self.spec.name


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round, and where its intermediate results lie in the blob store."""

    round: Round
    aggregate_key: str | None = None
    #: The version that the step began with, once it is done: its result is the next one.
    stepped_from: ModelVersion | None = None
    #: The next version's master checkpoint, download and optimiser state, once the step is done.
    checkpoint_key: str | None = None
    download_key: str | None = None
    state_key: str | None = None
    #: The versions' average with the next one in it, and its download; where the task wants one.
    average_key: str | None = None
    released_key: str | None = None
    #: The task's norm scales as the round opened, by which each of its reports is judged; None of evidence.
    norm_scales_json: bytes | None = None

    @property
    def blob_keys(self) -> tuple[str, ...]:
        """All keys that this row itself points to; its partial aggregates have rows of their own."""
        keys = (
            self.aggregate_key,
            self.checkpoint_key,
            self.download_key,
            self.state_key,
            self.average_key,
            self.released_key,
        )
        return tuple(key for key in keys if key is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRecord:
    """What one process has summed for a round so far; nobody else writes this row."""

    round_id: RoundId
    #: The process, and a number that is new with each round that it takes up. Of a carried partial, the round
    #: that it was summed in before that.
    replica: str
    key: str
    count: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """Who may do something until when."""

    name: str
    holder: str
    #: Grows whenever the holder changes.
    epoch: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """An enrolled device. Nothing here says who the person is or what they type."""

    id: DeviceId
    population: PopulationName
    user_digest: UserDigest | None
    app_build: int
    locale: str
    enrolled_at: datetime
    last_seen_at: datetime
    last_contributed_at: datetime | None = None
    #: 0 unknown, 1 low, 2 mid, 3 high.
    tier: int = 0
    #: Groups that the app put it in, sorted.
    tags: tuple[str, ...] = ()
    #: ``rounds.standing.Standing`` as JSON; None for a device of which nothing was refused.
    standing_json: bytes | None = None
    #: Kept out until then; None, or in the past: it is not.
    quarantined_until: datetime | None = None
    #: Of its newest token; earlier ones are void.
    token_generation: int = 0
    #: A keyed digest of the installation that the platform attested; None where it attests none.
    subject_digest: str | None = None
    #: Assignments in a row that ran out of time with nothing heard of the device.
    silences: int = 0
    #: Counted reports by task from before it enrolled anew, as a JSON object; None: there were none.
    past_participations_json: bytes | None = None
    #: Whether it has stored a personal model: then it is kept though it may never report.
    has_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRecord:
    """Tokens of one device that are void though they have not expired."""

    #: A keyed digest of the device's id.
    device_digest: str
    #: Tokens of lower generations are void at once.
    generation: int
    #: Tokens of this generation itself are void from then on.
    effective_at: datetime
    #: When all of them have expired by themselves.
    until: datetime
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstoneRecord:
    """What must outlive a forgotten device. Nothing here says who the person is or which phone it was."""

    #: A keyed digest of what proves to be the same: the user's secret, or the attested installation.
    digest: str
    until: datetime
    quarantined_until: datetime | None = None
    last_contributed_at: datetime | None = None
    #: Counted reports by task, where a task limits them, as a JSON object.
    participations_json: bytes | None = None

    def merged(self, other: "TombstoneRecord") -> "TombstoneRecord":
        """Return what holds when both do: the later instants, and of each task the higher count."""
        counts = participations_of(self.participations_json)
        for task, count in participations_of(other.participations_json).items():
            counts[task] = max(count, counts.get(task, 0))
        return TombstoneRecord(
            digest=self.digest,
            until=max(self.until, other.until),
            quarantined_until=_later(self.quarantined_until, other.quarantined_until),
            last_contributed_at=_later(self.last_contributed_at, other.last_contributed_at),
            participations_json=participations_json(counts),
        )


def participations_json(counts: Mapping[TaskName, int]) -> bytes | None:
    """Return counts by task in the form in which they are stored; None: there are none."""
    return json.dumps(counts, sort_keys=True).encode() if counts else None


def participations_of(data: bytes | None) -> dict[TaskName, int]:
    """Return what ``participations_json`` wrote."""
    return {} if data is None else {TaskName(task): int(count) for task, count in json.loads(data).items()}


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((instant for instant in (one, other) if instant is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecord:
    """One person's head in one population, encrypted."""

    population: PopulationName
    #: A keyed digest of who it is.
    owner: str
    #: A keyed digest of the content: what a phone says it replaces.
    tag: bytes
    #: Name of the key.
    key_id: str
    sealed: bytes = field(repr=False)
    updated_at: datetime


class AssignmentState(StrEnum):
    """What became of an assignment."""

    ASSIGNED = "assigned"
    COUNTED = "counted"
    FAILED = "failed"
    #: It ran out of time, and nothing was heard of the device.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRecord:
    """One device in one round; unique by both."""

    round_id: RoundId
    device: DeviceId
    id: AssignmentId
    state: AssignmentState
    assigned_at: datetime
    #: SHA-256 of the counted report; None before.
    report_digest: bytes | None = None
    weight: float = 0.0
    session_shape: str = ""
    #: The round whose aggregate it is in; None before. Of a synchronous task, its own.
    counted_in: RoundId | None = None
    #: When the report that was counted had come; None before.
    counted_at: datetime | None = None
    #: When it runs out of time; None: with its round.
    expires_at: datetime | None = None

    def runs_out_at(self, of: Round) -> datetime:
        """When it runs out of time: never after its round, where that ends by a deadline."""
        if of.is_async:
            return self.expires_at or self.assigned_at + timedelta(seconds=of.spec.round.deadline_s)
        return min(self.expires_at or of.deadline_at, of.deadline_at)


def is_silence(assignment: AssignmentRecord, of: Round) -> bool:
    """Whether an assignment that ran out of time is held against its device.

    Not where the round's end cut it short, to less than a minute and to less than half of the round: a phone
    that was called so late could not have reported.
    """
    ends_at = assignment.runs_out_at(of)
    given = ends_at - assignment.assigned_at
    enough = min(_ENOUGH_TIME, (of.deadline_at - of.opened_at) / 2)
    return of.is_async or ends_at < of.deadline_at or given >= enough


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedReport:
    """What a flush writes down of one report: that it is in the sum, never what was in it."""

    id: AssignmentId
    #: The round that it was assigned in.
    round_id: RoundId
    device: DeviceId
    report_digest: bytes
    weight: float
    session_shape: str
    #: When it came; None: as it is counted.
    received_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PastAssignment:
    """One assignment of a round that has ended, without its device."""

    state: AssignmentState
    opened_at: datetime
    closed_at: datetime
    assigned_at: datetime
    counted_at: datetime | None
    expires_at: datetime | None = None

    def outcome(self) -> Outcome:
        """What became of it, as far as its round saw."""
        until = self.counted_at if self.counted_at is not None else self.closed_at
        if self.state is AssignmentState.EXPIRED and self.expires_at is not None:
            until = min(until, self.expires_at)  # from then on no report would have been taken
        return Outcome(
            _FATES[self.state],
            (self.assigned_at - self.opened_at).total_seconds(),
            (until - self.assigned_at).total_seconds(),
        )


_FATES = {
    AssignmentState.COUNTED: Fate.REPORTED,
    AssignmentState.FAILED: Fate.FAILED,
    AssignmentState.ASSIGNED: Fate.CENSORED,
    AssignmentState.EXPIRED: Fate.CENSORED,
}


def history_from(
    durations: Iterable[tuple[datetime, datetime]], past: Iterable[PastAssignment]
) -> RoundHistory:
    """What ``rounds.tuning`` makes of rows: from opening to end, and what became of each assignment."""
    return RoundHistory(
        tuple(
            (closed_at - opened_at).total_seconds()
            for opened_at, closed_at in durations
            if closed_at > opened_at  # a clock that was set back meanwhile says nothing of the round
        ),
        tuple(one.outcome() for one in past),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob as a listing shows it."""

    key: str
    #: When it was written, by the blob store's own clock.
    modified_at: datetime
    size_bytes: int
