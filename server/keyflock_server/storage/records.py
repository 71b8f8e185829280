"""Rows as immutable values. This module documents what they mean; ``tables`` declares how they are stored."""

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
from keyflock_server.rounds.tuning import AssignmentOutcome, OutcomeKind, RoundHistory
from keyflock_server.storage.device_facts import DeviceFacts

#: A phone that had so long and did not report is silent, even if its round's end cut its time short.
_MIN_REPORT_TIME: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PopulationRecord:
    """A population: all phones that share one model."""

    #: Its id, which never changes and is never used twice; several names may resolve to it.
    name: PopulationName
    created_at: datetime
    #: The newest version, which rounds start from and keyboards serve.
    latest_version: ModelVersion
    #: ``ModelConfig`` as JSON.
    config_json: str
    vocabulary_digest: str
    #: ``PopulationPersonalisation`` as JSON; None until a ``personalize`` round has closed.
    personalisation_json: bytes | None = None
    #: The blob key of the versions' running average; None where keyboards serve the newest version itself.
    average_key: str | None = None
    #: Number of target words of the anchor text that versions are checked on; None if there is no such text.
    anchor_tokens: int | None = None
    #: Loss on the anchor text of the version that a person last chose: version 0, one that was accepted, or
    #: one that the population was rolled back to.
    anchor_loss_chosen: float | None = None
    #: The name that an operator has given it since; None while its id says it.
    current_name: PopulationName | None = None
    #: When an operator archived it; None for one in use.
    archived_at: datetime | None = None
    #: The release policy as JSON; None for promotions by hand.
    release_policy_json: str | None = None
    #: It grows with each change by an operator.
    revision: int = 0

    @property
    def shown_name(self) -> PopulationName:
        """Return the name that operators see."""
        return self.current_name or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task and its state."""

    spec: TaskSpec
    status: TaskStatus
    created_at: datetime
    #: The blob key of the server optimiser's state; None before the first step.
    optimizer_state_key: str | None = None
    #: ``aggregation.norm_scale``'s scales as JSON; None before the first.
    norm_scales_json: bytes | None = None
    #: Why an operator paused it, and when it resumes by itself; None: when somebody resumes it.
    pause_reason: str = ""
    resumes_at: datetime | None = None
    #: When an operator archived it; None for one in the ordinary lists.
    archived_at: datetime | None = None
    #: Why it ended; empty while it is not over.
    end_reason: str = ""
    #: It grows with each change by an operator; other processes then read its spec again.
    revision: int = 0

    @property
    def name(self) -> TaskName:
        """Return the task's id."""
        return self.spec.name


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedVersion:
    """The result of a round's step: the next version, before it is published.

    Its fields are columns of the round's row. A step whose weights are not finite writes no blobs.
    """

    #: The version that the step started from.
    stepped_from: ModelVersion
    #: Blob keys of the next version's master checkpoint, download and optimiser state.
    checkpoint_key: str | None = None
    download_key: str | None = None
    state_key: str | None = None
    #: Blob keys of the versions' average with the next version in it, and of its download, if configured.
    average_key: str | None = None
    released_key: str | None = None

    @property
    def blob_keys(self) -> tuple[str, ...]:
        """Return all blob keys of the staged version."""
        keys = (self.checkpoint_key, self.download_key, self.state_key, self.average_key, self.released_key)
        return tuple(key for key in keys if key is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """A round, and its intermediate results."""

    round: Round
    #: The blob key of the sum of all reports, once the partial aggregates are merged.
    aggregate_key: str | None = None
    #: The next version, from the step until the round is closed.
    staged: StagedVersion | None = None
    #: The task's norm scales when the round opened, for validating its reports; None for evidence.
    norm_scales_json: bytes | None = None

    @property
    def blob_keys(self) -> tuple[str, ...]:
        """Return all blob keys of this row; partial aggregates have rows of their own."""
        aggregate = () if self.aggregate_key is None else (self.aggregate_key,)
        return aggregate + (() if self.staged is None else self.staged.blob_keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialRecord:
    """One process's partial aggregate of a round; no other process writes this row."""

    round_id: RoundId
    #: The process's name, and a number that is new for each round that it attaches to. A carried partial has
    #: the round that it was summed in before that.
    replica: str
    key: str
    count: int
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A lease: its holder has a right until it expires."""

    name: str
    holder: str
    #: It increases whenever the holder changes.
    epoch: int
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """An enrolled device. The row does not identify the person or what they type."""

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
    #: Groups that the app has put the device in, sorted.
    tags: tuple[str, ...] = ()
    #: ``rounds.quarantine.Quarantine`` as JSON; None for a device without violations.
    standing_json: bytes | None = None
    #: The end of its quarantine; None, or in the past, if it is not quarantined.
    quarantined_until: datetime | None = None
    #: The generation of its newest token; tokens of earlier generations are invalid.
    token_generation: int = 0
    #: A keyed digest of the attested installation; None without attestation.
    subject_digest: str | None = None
    #: Consecutive assignments that expired without a message from the device.
    silences: int = 0
    #: Counted reports by task from before it enrolled again, as a JSON object; None if there are none.
    past_participations_json: bytes | None = None
    #: Whether it has stored a personal model: then it is retained even if it never reports.
    has_head: bool = False
    #: The end of its last assignment that counted as a silence; None if there was none.
    last_silent_at: datetime | None = None
    #: When one of its ``facts`` last changed otherwise than by enrolling; None if none did.
    changed_at: datetime | None = None

    @property
    def facts(self) -> DeviceFacts:
        """Return the facts that decide about a slot."""
        return DeviceFacts(
            device=self.id,
            last_contributed_at=self.last_contributed_at,
            quarantined_until=self.quarantined_until,
            silences=self.silences,
            last_silent_at=self.last_silent_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRecord:
    """Tokens of one device that are invalid before they expire."""

    #: A keyed digest of the device's id.
    device_digest: str
    #: Tokens of lower generations are invalid at once.
    generation: int
    #: Tokens of this generation are invalid from then on.
    effective_at: datetime
    #: When all these tokens have expired.
    until: datetime
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstoneRecord:
    """The facts that outlive a forgotten device. The row does not identify the person or the phone."""

    #: A keyed digest of the user's secret, or of the attested installation.
    digest: str
    until: datetime
    quarantined_until: datetime | None = None
    last_contributed_at: datetime | None = None
    #: Counted reports by task, for tasks that limit them, as a JSON object.
    participations_json: bytes | None = None

    def merged(self, other: "TombstoneRecord") -> "TombstoneRecord":
        """Return both merged: the later instants, and the higher count of each task."""
        counts = parse_participations(self.participations_json)
        for task, count in parse_participations(other.participations_json).items():
            counts[task] = max(count, counts.get(task, 0))
        return TombstoneRecord(
            digest=self.digest,
            until=max(self.until, other.until),
            quarantined_until=_later(self.quarantined_until, other.quarantined_until),
            last_contributed_at=_later(self.last_contributed_at, other.last_contributed_at),
            participations_json=participations_json(counts),
        )


def participations_json(counts: Mapping[TaskName, int]) -> bytes | None:
    """Return counts by task as stored JSON; None if there are none."""
    return json.dumps(counts, sort_keys=True).encode() if counts else None


def parse_participations(data: bytes | None) -> dict[TaskName, int]:
    """Return the counts that ``participations_json`` encoded."""
    return {} if data is None else {TaskName(task): int(count) for task, count in json.loads(data).items()}


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((instant for instant in (one, other) if instant is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalModelRecord:
    """One person's encrypted personal model in one population."""

    population: PopulationName
    #: A keyed digest of the owner's identity.
    owner: str
    #: A keyed digest of the content, by which a phone names the model that it replaces.
    tag: bytes
    #: The id of the encryption key.
    key_id: str
    sealed: bytes = field(repr=False)
    updated_at: datetime


class AssignmentState(StrEnum):
    """The state of an assignment."""

    ASSIGNED = "assigned"
    COUNTED = "counted"
    FAILED = "failed"
    #: It expired without a message from the device.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRecord:
    """One device's assignment in one round; unique by both."""

    round_id: RoundId
    device: DeviceId
    id: AssignmentId
    state: AssignmentState
    assigned_at: datetime
    #: SHA-256 of the counted report; None until then.
    report_digest: bytes | None = None
    weight: float = 0.0
    session_shape: str = ""
    #: The round whose aggregate counts it; None until then. In a synchronous task it is ``round_id``.
    counted_in: RoundId | None = None
    #: When the counted report arrived; None until then.
    counted_at: datetime | None = None
    #: When it expires; None if with its round.
    expires_at: datetime | None = None

    def runs_out_at(self, of: Round) -> datetime:
        """Return when it expires: never after its round, where that has a deadline."""
        if of.is_async:
            return self.expires_at or self.assigned_at + timedelta(seconds=of.spec.round.deadline_s)
        return min(self.expires_at or of.deadline_at, of.deadline_at)


def is_silence(assignment: AssignmentRecord, of: Round) -> bool:
    """Return whether an expired assignment counts as a silence of its device.

    It does not where the round's end cut it short to less than a minute and less than half of the round: a
    phone that was assigned so late could not have reported. Nor does it in a round that trains nothing.
    """
    if not of.spec.counts_as_training:
        return False
    ends_at = assignment.runs_out_at(of)
    given = ends_at - assignment.assigned_at
    enough = min(_MIN_REPORT_TIME, (of.deadline_at - of.opened_at) / 2)
    return of.is_async or ends_at < of.deadline_at or given >= enough


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedReport:
    """The metadata of a report that a flush stores; it has nothing of the delta."""

    id: AssignmentId
    #: The round of its assignment.
    round_id: RoundId
    device: DeviceId
    report_digest: bytes
    weight: float
    session_shape: str
    #: When it arrived; None if that is the time of the flush.
    received_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PastAssignment:
    """An assignment of a round that has ended, without its device."""

    state: AssignmentState
    opened_at: datetime
    closed_at: datetime
    assigned_at: datetime
    counted_at: datetime | None
    expires_at: datetime | None = None

    def outcome(self) -> AssignmentOutcome:
        """Return its outcome, as far as its round knew."""
        until = self.counted_at if self.counted_at is not None else self.closed_at
        if self.state is AssignmentState.EXPIRED and self.expires_at is not None:
            until = min(until, self.expires_at)  # after that no report would have been taken
        return AssignmentOutcome(
            _OUTCOME_KINDS[self.state],
            (self.assigned_at - self.opened_at).total_seconds(),
            (until - self.assigned_at).total_seconds(),
        )


_OUTCOME_KINDS = {
    AssignmentState.COUNTED: OutcomeKind.REPORTED,
    AssignmentState.FAILED: OutcomeKind.FAILED,
    AssignmentState.ASSIGNED: OutcomeKind.CENSORED,
    AssignmentState.EXPIRED: OutcomeKind.CENSORED,
}


def round_history(
    durations: Iterable[tuple[datetime, datetime]], past: Iterable[PastAssignment]
) -> RoundHistory:
    """Return the history for ``rounds.tuning``, from opening and closing times and past assignments."""
    return RoundHistory(
        tuple(
            (closed_at - opened_at).total_seconds()
            for opened_at, closed_at in durations
            if closed_at > opened_at  # otherwise the clock was set back meanwhile
        ),
        tuple(one.outcome() for one in past),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """A blob in a listing."""

    key: str
    #: When it was written, by the blob store's clock.
    modified_at: datetime
    size_bytes: int
