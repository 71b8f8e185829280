"""A micro-batch: what is summed, who waits for it, and how many bytes stay in memory meanwhile."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator.harness import LAYOUT, constant

from keyflock_compression import Float32Spec, encode
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.aggregation.verdicts import Verdict
from keyflock_server.coordinator.micro_batch import (
    AssignedCodec,
    MicroBatch,
    PendingReport,
    PendingSum,
    ReportOutcome,
    ReportRejected,
)
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId
from keyflock_server.rounds.decisions import Pending
from keyflock_server.rounds.task import Aggregation

SPEC = Float32Spec()
CODEC = AssignedCodec(SPEC, seed=0, table="codec")
UNCLIPPED = Aggregation(clip_norm_ratio=0.0, max_norm_ratio=0.0)
A, B, C = (AssignmentId(name) for name in "abc")


def container(vector: NDArray[np.float32]) -> bytes:
    return encode(vector, LAYOUT, SPEC, seed=0)


def new_sum(rules: Aggregation = UNCLIPPED, scale: float = 1.0) -> PendingSum:
    return PendingSum(LAYOUT, DeltaValidator(rules, {"codec": NormScale.initial(scale)}))


def sum_of(*values: float) -> PendingSum:
    """Return the sum of constant deltas, of assignments a, b, c."""
    pending = new_sum()
    for id_, value in zip((A, B, C), values, strict=False):
        pending.add(id_, container(constant(value)), CODEC, 1.0)
    return pending


def pending_report(id_: AssignmentId, device: str = "phone") -> PendingReport:
    return PendingReport(
        id_,
        RoundId("t-1"),
        DeviceId(device),
        b"delta",
        1,
        1.0,
        "",
        datetime(2026, 1, 1, tzinfo=UTC),
        asyncio.get_running_loop().create_future(),
    )


async def test_a_report_is_the_same_if_its_delta_is_to_the_last_byte_and_so_are_its_examples() -> None:
    def view(data: bytes) -> Any:  # noqa: ANN401 - a server's bytes are a view of the request's body
        return memoryview(b"body" + data)[4:]

    waiting = replace(pending_report(A), delta=view(b"delta"))

    assert [waiting.is_same(form(b"delta"), 1) for form in (bytes, view)] == [True, True]
    for other in (b"delte", b"delt", b"deltas", b""):
        assert [waiting.is_same(form(other), 1) for form in (bytes, view)] == [False, False]
    assert not waiting.is_same(view(b"delta"), 2)


def test_what_is_no_container_is_the_phones_fault_and_leaves_nothing_in_the_sum() -> None:
    pending = new_sum()

    with pytest.raises(ReportRejected) as refused:
        pending.add(A, b"no container", CODEC, 1.0)

    assert refused.value.verdict is Verdict.MALFORMED
    assert pending.size == Pending(0, 0)
    taken = pending.take(lambda _size: True)
    assert taken is not None
    assert taken.sum.count == 0


def test_what_the_validator_rejects_leaves_nothing_in_the_sum() -> None:
    pending = new_sum(Aggregation(max_norm_ratio=2.0))

    with pytest.raises(ReportRejected, match="norm") as refused:
        pending.add(A, container(constant(100.0)), CODEC, 1.0)

    assert refused.value.verdict is Verdict.NORM_EXCEEDED
    assert pending.size == Pending(0, 0)


def test_a_container_of_exactly_its_own_size_is_within_its_limit() -> None:
    delta = container(constant(1.0))

    assert not new_sum().add(A, delta, CODEC, 1.0).is_thin
    with pytest.raises(ReportRejected):
        new_sum().add(A, delta + b"\x00", CODEC, 1.0)


def test_a_report_is_thin_when_it_repeats_one_that_waits_or_one_that_was_taken_or_says_nothing() -> None:
    pending = new_sum(UNCLIPPED, scale=10.0)
    one, other = container(constant(1.0)), container(constant(2.0))

    first = pending.add(A, one, CODEC, 1.0)
    repeats_what_waits = pending.add(B, one, CODEC, 1.0)
    nothing = pending.add(C, container(constant(1e-6)), CODEC, 1.0)
    size = pending.size
    pending.take(lambda _size: True)
    repeats_what_was_taken = pending.add(A, one, CODEC, 1.0)
    nothing_again = pending.add(C, container(constant(1e-6)), CODEC, 1.0)
    another = pending.add(B, other, CODEC, 1.0)

    assert [report.is_thin for report in (first, repeats_what_waits, nothing)] == [False, True, True]
    assert size == Pending(3, 1)
    assert [report.is_thin for report in (repeats_what_was_taken, nothing_again, another)] == [
        True,
        True,
        False,
    ]
    assert pending.size == Pending(3, 1)


def test_what_repeats_a_report_of_the_round_before_is_not_thin() -> None:
    pending = sum_of(1.0)
    pending.take(lambda _size: True)

    pending.begin_round(DeltaValidator(UNCLIPPED, {"codec": NormScale.initial(1.0)}))

    assert not pending.add(A, container(constant(1.0)), CODEC, 1.0).is_thin


def test_a_sum_that_may_not_be_taken_stays_and_grows() -> None:
    pending = sum_of(1.0, 2.0)

    refused = pending.take(lambda size: size.reports > 2)
    pending.add(C, container(constant(3.0)), CODEC, 1.0)
    taken = pending.take(lambda size: size.reports > 2)

    assert refused is None
    assert taken is not None
    assert (taken.ids, taken.size, taken.sum.count, taken.sum.weight) == ((A, B, C), Pending(3, 3), 3, 3.0)
    np.testing.assert_array_equal(taken.sum.sum, constant(6.0))
    assert pending.size == Pending(0, 0)


def test_a_batch_that_is_given_back_is_in_the_sum_before_what_came_meanwhile() -> None:
    pending = sum_of(1.0, 2.0)
    taken = pending.take(lambda _size: True)
    assert taken is not None
    pending.add(C, container(constant(4.0)), CODEC, 1.0)

    pending.give_back(taken)

    again = pending.take(lambda size: size == Pending(3, 3))
    assert again is not None
    assert (again.ids, again.sum.count) == ((A, B, C), 3)
    np.testing.assert_array_equal(again.sum.sum, constant(7.0))


def test_a_report_that_is_dropped_leaves_the_sum_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = sum_of(1.0, 2.0, 4.0)

    dropped = pending.drop([B])
    monkeypatch.setattr(pending, "without", None)  # where nobody goes, nothing is summed again
    nobody = pending.drop([B])

    taken = pending.take(lambda size: size == Pending(2, 2))
    assert (dropped, nobody) == ((B,), ())
    assert taken is not None
    assert (taken.ids, taken.sum.count, taken.sum.weight) == ((A, C), 2, 2.0)
    np.testing.assert_array_equal(taken.sum.sum, constant(5.0))


async def test_a_report_that_is_being_decoded_is_taken_for_a_distinct_one() -> None:
    batch = MicroBatch(sum_of(1.0, 1.0))
    for id_ in (A, B, C):
        batch.reserve(pending_report(id_))

    assert batch.size == Pending(3, 2)
    assert (len(batch), batch.ids) == (3, (A, B, C))


async def test_what_waits_can_be_fewer_than_what_is_summed_and_never_less_than_nothing() -> None:
    batch = MicroBatch(sum_of(1.0, 1.0))
    batch.reserve(pending_report(A))
    batch.withdraw(A)  # a request that ended while its report was added

    assert batch.size == Pending(0, 0)
    assert batch.get(A) is None


async def test_those_who_wait_hear_their_outcome_and_wait_no_longer() -> None:
    batch, reports = MicroBatch(new_sum()), [pending_report(id_) for id_ in (A, B, C)]
    for one in reports:
        batch.reserve(one)

    batch.settle([B], ReportOutcome.CONFLICT)
    left = batch.ids
    batch.settle_all(ReportOutcome.ROUND_GONE)

    outcomes = [one.outcome.result() for one in reports]
    assert left == (A, C)
    assert outcomes == [ReportOutcome.ROUND_GONE, ReportOutcome.CONFLICT, ReportOutcome.ROUND_GONE]
    assert len(batch) == 0


async def test_the_reports_of_a_device_are_known_by_its_name() -> None:
    batch = MicroBatch(new_sum())
    for id_, device in ((A, "one"), (B, "other"), (C, "one")):
        batch.reserve(pending_report(id_, device))

    assert batch.ids_of_devices([DeviceId("one"), DeviceId("nobody")]) == [A, C]
    assert [one.id for one in batch.reports_for([C, B])] == [C, B]


async def test_a_delta_whose_request_has_ended_is_counted_once_while_its_report_waits() -> None:
    batch = MicroBatch(new_sum())
    for id_ in (A, B):
        batch.reserve(pending_report(id_))

    counted = []
    for id_, size_bytes in (
        (A, 100),
        (A, 100),
        (B, 30),
        (C, 7),
    ):  # A's request was repeated; C waits for none
        batch.leave_unattended(id_, size_bytes)
        counted.append(batch.unattended_bytes)
    batch.withdraw(B)
    counted.append(batch.unattended_bytes)
    batch.reserve(pending_report(C))  # its request has not ended
    batch.settle([C, A], ReportOutcome.COUNTED)
    counted.append(batch.unattended_bytes)

    assert counted == [100, 100, 130, 130, 100, 0]


def test_the_size_of_a_sum_is_one_object_which_another_thread_cannot_read_half_changed() -> None:
    pending = sum_of(1.0, 2.0, 2.0)
    before = pending.size

    taken = pending.take(lambda _: True)

    assert before is not pending.size
    assert pending.size is pending.size
    assert (before, pending.size) == ((3, 2), (0, 0))
    assert taken is not None
    pending.give_back(taken)
    assert pending.size == (3, 2)
    pending.drop([A])
    assert pending.size == (2, 1)
