"""Whatever happens to pending reports: a sum is that of the reports that it names, and knows which repeat."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray
from tests.unit.coordinator.harness import constant
from tests.unit.coordinator.test_micro_batch import CODEC, UNCLIPPED, container, new_sum

from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.coordinator.micro_batch import FlushBatch
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.rounds.decisions import Pending

#: A report as the model has it: its value, its weight, and its digest, which one that makes no flush larger
#: has not.
Plain = tuple[float, float, float | None]


class SumMachine(RuleBasedStateMachine):
    """One sum of constant deltas, and at most one batch that is being committed."""

    def __init__(self) -> None:
        super().__init__()
        self.sum = new_sum()
        self.number = 0
        self.waiting: dict[AssignmentId, Plain] = {}
        self.taken_digests: set[float] = set()
        self.batch: FlushBatch | None = None
        self.committing: dict[AssignmentId, Plain] = {}

    @rule(value=st.sampled_from([0.0, 1.0, 2.0, -1.0]), weight=st.sampled_from([1.0, 3.0]))
    def a_report_is_added(self, value: float, weight: float) -> None:
        self.number += 1
        id_ = AssignmentId(f"{self.number}")
        digest = None if value == 0.0 or value in self.taken_digests else value
        is_thin = digest is None or digest in {one for _, _, one in self.waiting.values()}

        admitted = self.sum.add(id_, container(constant(value)), CODEC, weight)

        self.waiting[id_] = value, weight, digest
        assert admitted.is_thin == is_thin

    @precondition(lambda self: self.batch is None)
    @rule(distinct=st.integers(0, 2))
    def a_batch_is_taken(self, distinct: int) -> None:
        may = _distinct(self.waiting) >= distinct

        self.batch = self.sum.take(lambda size: size.distinct >= distinct)

        assert (self.batch is not None) == may
        if may:
            self.committing, self.waiting = self.waiting, {}
            self.taken_digests |= {one for _, _, one in self.committing.values() if one is not None}

    @precondition(lambda self: self.batch is not None)
    @rule()
    def the_batch_is_given_back(self) -> None:
        assert self.batch is not None
        self.sum.give_back(self.batch)
        self.waiting = self.committing | self.waiting
        self.batch, self.committing = None, {}

    @precondition(lambda self: self.batch is not None)
    @rule()
    def the_batch_is_committed(self) -> None:
        self.batch, self.committing = None, {}

    @precondition(lambda self: self.batch is not None)
    @rule(numbers=st.sets(st.integers(1, 12)))
    def reports_of_the_batch_were_counted_elsewhere(self, numbers: set[int]) -> None:
        assert self.batch is not None
        left_out = {AssignmentId(f"{number}") for number in numbers}
        self.batch = self.sum.without(self.batch, left_out)
        self.committing = {id_: one for id_, one in self.committing.items() if id_ not in left_out}

    @rule(numbers=st.sets(st.integers(1, 12)))
    def devices_are_forgotten(self, numbers: set[int]) -> None:
        left_out = {AssignmentId(f"{number}") for number in numbers}
        dropped = self.sum.drop(left_out)
        assert dropped == tuple(id_ for id_ in self.waiting if id_ in left_out)
        self.waiting = {id_: one for id_, one in self.waiting.items() if id_ not in left_out}

    @rule()
    def the_next_buffer_begins(self) -> None:
        self.sum.begin_round(DeltaValidator(UNCLIPPED, {}))
        self.taken_digests = set()

    @invariant()
    def the_sums_are_those_of_the_reports_that_they_name(self) -> None:
        assert self.sum.size == Pending(len(self.waiting), _distinct(self.waiting))
        seen = FlushBatch(self.sum._sum, self.sum._entries)
        for batch, plain in ((seen, self.waiting), (self.batch, self.committing)):
            if batch is None:
                continue
            assert batch.ids == tuple(plain)
            assert batch.size == Pending(len(plain), _distinct(plain))
            np.testing.assert_array_equal(batch.sum.sum, _total(plain))
            assert batch.sum.count == len(plain)
            assert batch.sum.weight == sum(weight for _, weight, _ in plain.values())
            assert batch.sum.norms.count("codec") == sum(value != 0.0 for value, _, _ in plain.values())


def _distinct(reports: dict[AssignmentId, Plain]) -> int:
    return len({digest for _, _, digest in reports.values() if digest is not None})


def _total(reports: dict[AssignmentId, Plain]) -> NDArray[np.float32]:
    return constant(sum(value * weight for value, weight, _ in reports.values()))


TestSumMachine = SumMachine.TestCase
TestSumMachine.settings = settings(max_examples=30, stateful_step_count=20)
