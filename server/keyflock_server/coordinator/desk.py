"""One task's open round, in memory: what the rows say, and what is summed but not yet written."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final, assert_never

from keyflock_compression import Layout
from keyflock_server.aggregation.clipping import DeltaJudge
from keyflock_server.aggregation.evidence_bound import EvidenceJudge
from keyflock_server.aggregation.norm_scale import stored_scales
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import Judge
from keyflock_server.coordinator.micro_batch import MicroBatch, Outcome, PendingSum, Taken
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.records import AssignmentRecord, RoundRecord

_PHASES: Final = tuple(Phase)


@dataclass(frozen=True, slots=True)
class UnsureFlush:
    """A batch whose commit was not answered; the process's row of the partial aggregate will tell."""

    taken: Taken
    committed: PartialAggregate
    key: str


class OpenRound:
    """A round that is not over.

    Args:
        record: Its row, as this process knows it; others may have moved it on.
        partial: Names the row of the partial aggregate that this object sums, and no other ever did.
        layout: Of its reports.
        judge: What is said of its reports.
        batch: Reports that came too late for the last buffer of an asynchronous task.
    """

    def __init__(
        self,
        record: RoundRecord,
        partial: str,
        layout: Layout,
        judge: Judge,
        batch: MicroBatch | None = None,
    ) -> None:
        self.record = record
        self.partial = partial
        self._layout = layout
        self._judge = judge
        #: This process's own partial aggregate, as committed, and where it lies.
        self.committed = PartialAggregate(layout.size)
        self.committed_key: str | None = None
        #: False once the store has shown that it holds another one.
        self.is_committed_known = True
        #: Assignments that this process has seen; those that it has not are in the store.
        self.members: dict[AssignmentId, AssignmentRecord] = {}
        #: Those whose reports came here, taken or not, and when: their devices were not silent.
        self.heard: dict[AssignmentId, datetime] = {}
        self.batch = batch or MicroBatch(PendingSum(layout, judge))
        self.batch.sum.begin_round(judge)
        #: A flush whose transaction may have been committed, or not.
        self.unsure: UnsureFlush | None = None
        #: Of an asynchronous task: versions that were taken back, whose reports count nowhere.
        self.withdrawn: frozenset[ModelVersion] = frozenset()

    @property
    def round(self) -> Round:
        """Where it stands."""
        return self.record.round

    @property
    def is_held(self) -> bool:
        """Whether what it made waits for an operator: its task gives out no work and takes no report."""
        return self.record.round.phase is Phase.HELD

    @property
    def id(self) -> RoundId:
        """Its id."""
        return self.record.round.id

    def let_go_of_what_waits(self) -> None:
        """Tell all reports that wait that the round is gone, and forget their sum."""
        self.batch.settle_all(Outcome.ROUND_GONE)
        # What is being added to the old sum at this moment has been told so, too.
        self.batch = MicroBatch(PendingSum(self._layout, self._judge))

    def learn(self, record: RoundRecord) -> None:
        """The row as it was read; ignored if this process knows better by now."""
        if _progress(record) >= _progress(self.record):
            self.record = record


class Desk:
    """A task and its open round.

    Args:
        spec: The task.
        status: Where it stands.
    """

    def __init__(self, spec: TaskSpec, status: TaskStatus) -> None:
        self.spec = spec
        self.status = status
        self.open: OpenRound | None = None
        #: Of the last round that this process has heard of; 0 before the first.
        self.last_sequence = 0
        #: Rounds that this process has held so far.
        self.taken_up = 0
        #: Of an asynchronous task: devices that train now.
        self.training = 0
        #: Why its round did not go on at the last pass; empty when it did.
        self.trouble = ""
        #: Whether a row of it cannot be read: then nothing is done with it until it can.
        self.is_unreadable = False
        #: Over how long phones that come together are to be spread, as was found at the last check-in.
        self.spread_s = 0.0
        #: Held while a row of the open round is being changed.
        self.lock = asyncio.Lock()
        #: Held by whoever flushes, closes or opens.
        self.turn = asyncio.Lock()

    @property
    def task(self) -> TaskName:
        """The task's name."""
        return self.spec.name

    @property
    def slots_left(self) -> int:
        """Devices that may be assigned now."""
        if self.open is None or self.open.round.phase is not Phase.COLLECTING:
            return 0
        if self.open.round.is_async:
            return max(0, self.spec.round.slots - self.training)
        return self.open.round.slots_left


def _progress(record: RoundRecord) -> tuple[bool, int, int]:
    """Grows with every event but a rebase; an accepted round goes on from before it was held."""
    current = record.round
    counts = current.assigned + current.counted + current.failed + current.expired
    return current.is_accepted, _PHASES.index(current.phase), counts


def judge_of(spec: TaskSpec, norm_scales_json: bytes | None) -> Judge:
    """Return what judges the reports of a round of this task, which opened with these norm scales."""
    match spec.kind:
        case TaskKind.TRAIN:
            return DeltaJudge(spec.aggregation, stored_scales(norm_scales_json))
        case TaskKind.PERSONALIZE:
            return EvidenceJudge()
        case _:
            assert_never(spec.kind)
