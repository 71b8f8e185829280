"""A task's state in memory: its open round's row, and the reports that are summed but not yet written."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, assert_never

from cachetools import FIFOCache, LRUCache

from keyflock_compression import CodecSpec, Layout
from keyflock_models.evaluation.paired_scores import scores_problem
from keyflock_models.personal.evidence import evidence_problem
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.evidence_bound import EvidenceValidator
from keyflock_server.aggregation.norm_scale import scales_from_json
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import ReportValidator
from keyflock_server.coordinator.flush_pace import FlushPace
from keyflock_server.coordinator.micro_batch import FlushBatch, MicroBatch, PendingSum, ReportOutcome
from keyflock_server.coordinator.round_members import RoundMembers
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.records import AssignmentRecord, AssignmentState, RoundRecord, TaskRecord

#: A budget of bytes may give every phone another codec.
_MAX_CODECS: Final = 256
#: Maximum number of devices that are remembered while the store does not answer.
_MAX_UNSURE_SLOTS: Final = 65_536
_PHASES: Final = tuple(Phase)


@dataclass(frozen=True, slots=True)
class UnsureFlush:
    """A batch whose commit was not answered; this process's partial-aggregate row shows its fate."""

    batch: FlushBatch
    committed: PartialAggregate
    key: str


class OpenRound:
    """A round that is not over, as this process holds it in memory.

    Args:
        record: Its row as this process knows it; other processes may have changed it.
        partial_name: Name of this object's row of the partial aggregate; no other object has used it.
        layout: The layout of its reports.
        validator: Gives the verdicts on its reports.
        batch: Reports left over from the last buffer of an asynchronous task.
    """

    def __init__(
        self,
        record: RoundRecord,
        partial_name: str,
        layout: Layout,
        validator: ReportValidator,
        batch: MicroBatch | None = None,
    ) -> None:
        self.record = record
        self.partial_name = partial_name
        self._layout = layout
        self._validator = validator
        #: This process's own partial aggregate as committed, and its blob key.
        self.committed = PartialAggregate(layout.size)
        self.committed_key: str | None = None
        #: False once the store has shown that it has another one.
        self.is_committed_known = True
        #: Assignments that this process has seen; the others are only in the store.
        self.members = RoundMembers()
        #: Number of slots that are being taken: whether the store gives them is not known yet.
        self.slots_asked = 0
        #: Devices whose slot may have been given, and in which round: the store has not answered. The buffers
        #: of a task share them, as an assignment outlives its buffer.
        self.unsure_slots: FIFOCache[DeviceId, RoundId] = FIFOCache(_MAX_UNSURE_SLOTS)
        #: When reports arrived here, accepted or not, by assignment: these devices were not silent.
        self.report_arrivals: dict[AssignmentId, datetime] = {}
        self.batch = batch or MicroBatch(PendingSum(layout, validator))
        self.batch.sum.begin_round(validator)
        #: A flush whose transaction may have been committed, or not.
        self.unsure: UnsureFlush | None = None
        #: The codecs of its assignments by their wire form, each with the task's table that it comes from.
        self.codecs: LRUCache[tuple[tuple[str, Any], ...], tuple[CodecSpec, str]] = LRUCache(_MAX_CODECS)
        #: Sizes of the downloads that its devices begin with, by version.
        self.download_bytes: dict[ModelVersion, int] = {}
        #: Since when no slot was taken or became free, as the passes of this process have seen it.
        self.idle_since: datetime | None = None
        self._slots_moved = 0
        #: Withdrawn versions of an asynchronous task, whose reports do not count.
        self.withdrawn: frozenset[ModelVersion] = frozenset()

    @property
    def round(self) -> Round:
        """The round's state in its row."""
        return self.record.round

    @property
    def is_held(self) -> bool:
        """Whether its result waits for an operator: its task assigns no work and accepts no report."""
        return self.record.round.phase is Phase.HELD

    @property
    def id(self) -> RoundId:
        """The round's id."""
        return self.record.round.id

    def assignment_of(self, device: DeviceId, now: datetime) -> AssignmentRecord | None:
        """Return the device's assignment in this round; in a buffer, also an open one of an earlier buffer.

        It is what this process knows: another one may have given or ended an assignment since the last pass.
        """
        known = self.members.of_device(device)
        if known is None or known.round_id == self.id or self._is_outstanding(known, now):
            return known
        return None

    def outstanding(self, now: datetime) -> list[AssignmentRecord]:
        """Return the open assignments that have time left."""
        return [row for row in self.members.values() if self._is_outstanding(row, now)]

    def may_hold(self, assignment: AssignmentRecord) -> bool:
        """Return whether an open assignment of the task is one of this round, or of this buffer."""
        return self.round.is_async or assignment.round_id == self.id

    def _is_outstanding(self, assignment: AssignmentRecord, now: datetime) -> bool:
        return assignment.state is AssignmentState.ASSIGNED and now < assignment.runs_out_at(self.round)

    @property
    def waiting_reason(self) -> str:
        """Say what the reports that are not acknowledged yet wait for; empty where none waits."""
        pending, policy = self.batch.size, self.round.spec.round
        if not pending.reports:
            return ""
        enough = f"at least {policy.min_flush_clients} distinct reports (round.min_flush_clients)"
        if pending.distinct >= policy.min_flush_clients:
            enough += f", and as many must be left until the goal of {policy.goal}"
        return (
            f"{pending.reports} reports wait in this process, {pending.distinct} of them distinct: a sum is "
            f"stored of {enough}."
        )

    def discard_pending(self) -> None:
        """Answer all pending reports that the round has ended, and drop their sum."""
        self.batch.settle_all(ReportOutcome.ROUND_GONE)
        # A report that is being added to the old sum at this moment has been answered too.
        self.batch = MicroBatch(PendingSum(self._layout, self._validator))

    def watch_slots(self, now: datetime) -> None:
        """Note at a pass whether a slot was taken, or became free, in any process since the last one."""
        current = self.record.round
        moved = current.assigned + current.failed + current.expired
        if self.idle_since is None or moved != self._slots_moved:
            self.idle_since, self._slots_moved = now, moved

    def idle_s(self, now: datetime) -> float:
        """Return for how long the same slots have been free."""
        return 0.0 if self.idle_since is None else (now - self.idle_since).total_seconds()

    def refresh(self, record: RoundRecord) -> None:
        """Adopt a row that was read, unless this process has a newer one."""
        if _progress(record) >= _progress(self.record):
            self.record = record


class TaskState:
    """A task, its status and its open round, in memory.

    Args:
        record: The task's row when this process first reads it.
    """

    def __init__(self, record: TaskRecord) -> None:
        self.adopt(record)
        self.open_round: OpenRound | None = None
        #: Sequence number of the last round that this process knows; 0 before the first.
        self.last_sequence = 0
        #: Number of rounds that this process has attached so far.
        self.rounds_attached = 0
        #: Number of devices that train now, for an asynchronous task.
        self.devices_training = 0
        #: Why its round could not go on at the last pass; empty if it could.
        self.last_error = ""
        #: Whether one of its rows cannot be read: the task is left alone until it can.
        self.is_unreadable = False
        #: Time over which a crowd of phones is spread, as computed at the last check-in; 0: they meet.
        self.spread_s = 0.0
        #: Time after which the open round takes every eligible device, as computed at the last check-in.
        self.selection_window_s = record.spec.round.selection_window_s
        #: Spaces the flushes of this task.
        self.flush_pace = FlushPace()
        # Whoever needs several of these locks acquires them in this order.
        #: Held from the taking of a batch to its end, and while a round ends that may need one more flush.
        self.flush_lock = asyncio.Lock()
        #: Held while a batch is committed, and while a round is closed or opened.
        self.round_lock = asyncio.Lock()
        #: Held while a flush, an expiry or the round driver changes the open round's row. Slots are taken and
        #: given back without it, many at once.
        self.row_lock = asyncio.Lock()

    def adopt(self, record: TaskRecord, status: TaskStatus | None = None) -> None:
        """Take over the task as its row has it; an open round keeps the spec with which it opened.

        Args:
            record: The row.
            status: Another status than the row's.
        """
        self.spec = record.spec
        self.status = status or record.status
        self.resumes_at = record.resumes_at
        #: The revision of the row: with another one, it is read again.
        self.revision = record.revision

    @property
    def task(self) -> TaskName:
        """The task's name."""
        return self.spec.name

    @property
    def slots_left(self) -> int:
        """How many devices may be assigned now, as far as this process knows; the store has the last word."""
        opened = self.open_round
        if opened is None or opened.round.phase is not Phase.COLLECTING:
            return 0
        if opened.round.is_async:
            free = opened.round.slots - self.devices_training
        else:
            free = opened.round.slots_left
        return max(0, free - opened.slots_asked)

    def has_open_assignment(self, device: DeviceId, now: datetime) -> bool:
        """Return whether the open round waits for this device, as far as this process knows."""
        known = None if self.open_round is None else self.open_round.assignment_of(device, now)
        return known is not None and known.state is AssignmentState.ASSIGNED


def waiting_reason(state: TaskState | None, round_id: RoundId | None = None) -> str:
    """Return what reports of the task's open round wait for; of no other round, if one is given."""
    opened = None if state is None else state.open_round
    return opened.waiting_reason if opened is not None and round_id in {None, opened.id} else ""


def _progress(record: RoundRecord) -> tuple[bool, int, int]:
    """Return a key that grows with every event but a rebase; an accepted round goes on from STEPPED."""
    current = record.round
    counts = current.assigned + current.counted + current.failed + current.expired
    return current.is_accepted, _PHASES.index(current.phase), counts


def validator_for(spec: TaskSpec, norm_scales_json: bytes | None) -> ReportValidator:
    """Return the validator of the reports of a round that opened with these norm scales."""
    match spec.kind:
        case TaskKind.TRAIN:
            return DeltaValidator(spec.aggregation, scales_from_json(norm_scales_json))
        case TaskKind.PERSONALIZE:
            return EvidenceValidator(evidence_problem)
        case TaskKind.EVALUATE:
            metrics = spec.comparison.ordered_metrics
            return EvidenceValidator(lambda vector: scores_problem(vector, metrics))
        case _:
            assert_never(spec.kind)
