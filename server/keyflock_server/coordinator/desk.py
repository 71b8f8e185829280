"""One task's open round, in memory: what the rows say, and what is summed but not yet written."""

import asyncio
from collections.abc import Iterable
from typing import assert_never

from keyflock_compression import Layout
from keyflock_server.aggregation.clipping import DeltaJudge
from keyflock_server.aggregation.evidence_bound import EvidenceJudge
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.verdicts import Judge
from keyflock_server.coordinator.micro_batch import MicroBatch, PendingSum
from keyflock_server.protocol.identifiers import DeviceId, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.records import AssignmentRecord, RoundRecord


class OpenRound:
    """A round that is not over.

    Args:
        record: Its row.
        layout: Of its reports.
        committed: The partial aggregate that the row points to.
        judge: What is said of its reports; the task's, so that a round begins with what is known.
        members: Its assignments so far.
    """

    def __init__(
        self,
        record: RoundRecord,
        layout: Layout,
        committed: PartialAggregate,
        judge: Judge,
        members: Iterable[AssignmentRecord] = (),
    ) -> None:
        self.record = record
        self.committed = committed
        self.members: dict[DeviceId, AssignmentRecord] = {member.device: member for member in members}
        self.batch = MicroBatch(PendingSum(layout, record.round.spec.codec_spec, judge))

    @property
    def round(self) -> Round:
        """Where it stands."""
        return self.record.round

    @property
    def id(self) -> RoundId:
        """Its id."""
        return self.record.round.id


class Desk:
    """A task and its open round.

    Args:
        spec: The task.
        status: Where it stands.
        rounds_opened: Rounds so far, abandoned ones too.
        rounds_published: Rounds that came to a result and are closed.
    """

    def __init__(
        self, spec: TaskSpec, status: TaskStatus, rounds_opened: int = 0, rounds_published: int = 0
    ) -> None:
        self.spec = spec
        self.status = status
        self.rounds_opened = rounds_opened
        self.rounds_published = rounds_published
        self.open: OpenRound | None = None
        #: Of all rounds since this process started; only the workbench's thread touches it.
        self.judge = _judge_of(spec)
        #: Held while a row of the open round is being changed.
        self.lock = asyncio.Lock()
        #: Held by whoever flushes, closes or opens.
        self.turn = asyncio.Lock()

    @property
    def task(self) -> TaskName:
        """The task's name."""
        return self.spec.name


def _judge_of(spec: TaskSpec) -> Judge:
    match spec.kind:
        case TaskKind.TRAIN:
            return DeltaJudge(spec.aggregation)
        case TaskKind.PERSONALIZE:
            return EvidenceJudge()
        case _:
            assert_never(spec.kind)
