"""A flush is as large as its reports are distinct: what repeats another, or says nothing, hides nobody."""

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import LAYOUT, CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds, listed_tasks
from tests.unit.coordinator.personalize_task import assigned, evidence, evidence_report, open_task

from keyflock_compression import Float32Spec, encode
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.coordinator.events import NullObserver
from keyflock_server.coordinator.micro_batch import AssignedCodec, PendingSum
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.protocol.messages import Receipt, Report
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.decisions import Pending
from keyflock_server.rounds.task import Aggregation

pytestmark = pytest.mark.fault("D3")

T = TaskName("t")
#: The norm scale of a task in the harness: that of the server's own delta.
SCALE = 0.21
#: A delta of a thousandth of the scale: nine values as long are 9.3 times the value.
NEXT_TO_NOTHING = constant(1e-3 * SCALE / 9.3)
VICTIM = constant(1.0)


async def cohort(harness: CoordinatorHarness, size: int) -> list[AssignmentClaims]:
    return [await harness.assigned(await harness.enrol()) for _ in range(size)]


async def send(
    harness: CoordinatorHarness, claims: AssignmentClaims, message: Report
) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, message)
    except ApiError as refused:
        return refused.code


async def stored_sums(harness: CoordinatorHarness) -> list[str]:
    return [blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith("partials/")]


@pytest.mark.parametrize("table", ["goal = 8", 'mode = "async"\ngoal = 8\nconcurrency = 20'])
@pytest.mark.parametrize(
    "others", [constant(0.0), NEXT_TO_NOTHING, VICTIM], ids=["zeros", "next to nothing", "copies"]
)
async def test_three_reports_that_say_nothing_of_their_own_do_not_let_a_fourth_be_stored(
    harness: CoordinatorHarness, table: str, others: np.ndarray
) -> None:
    await harness.task(round=table)
    claims = await cohort(harness, 8)

    answers = [await send(harness, one, report(others)) for one in claims[:3]]
    answers.append(await send(harness, claims[3], report(VICTIM)))
    await harness.coordinator.tick()

    assert answers == [ProblemCode.REPORT_PENDING] * 4
    assert await stored_sums(harness) == []

    # With others the batch is large enough: all of it is committed, and nobody has been refused.
    for one in claims[4:]:
        await send(harness, one, report(VICTIM, of=one))
    again = [await send(harness, one, report(others)) for one in claims[:3]]
    await harness.coordinator.tick()
    assert all(isinstance(one, Receipt) for one in again)
    (closed, *_) = await listed_rounds(harness.coordinator, T)
    assert (closed.phase, closed.counted, closed.verdicts) == ("closed", 8, {"thin_reports": 3})
    mean = (3 * others + 5 * VICTIM) / 8
    np.testing.assert_allclose(await harness.model(1), -mean, rtol=1e-2)


async def test_what_an_earlier_batch_of_the_round_held_makes_no_later_one_larger(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 20")
    claims = await cohort(harness, 8)
    deltas = [constant(float(value)) for value in (1, 2, 3, 4)]
    first = [await send(harness, one, report(delta)) for one, delta in zip(claims[:4], deltas, strict=True)]

    later = [await send(harness, one, report(delta)) for one, delta in zip(claims[4:7], deltas, strict=False)]
    later.append(await send(harness, claims[7], report(constant(9.0))))

    assert isinstance(first[-1], Receipt)
    assert later == [ProblemCode.REPORT_PENDING] * 4
    assert len(await stored_sums(harness)) == 1


async def test_at_the_deadline_a_batch_that_is_too_small_counts_for_nothing(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\ndeadline_s = 100.0")
    claims = await cohort(harness, 8)
    for one in claims[:7]:
        await send(harness, one, report(constant(0.0)))
    await send(harness, claims[7], report(VICTIM))

    harness.pass_time(101.0)
    await harness.coordinator.tick()
    late = await send(harness, claims[7], report(VICTIM))

    assert late == ProblemCode.ROUND_GONE
    (ended, *_) = await listed_rounds(harness.coordinator, T)
    assert (ended.phase, ended.counted) == ("abandoned", 0)
    assert await stored_sums(harness) == []


async def test_many_who_say_nothing_do_not_keep_those_out_who_do(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8\nover_selection = 1.0")
    claims = await cohort(harness, 16)
    for one in claims[:12]:
        await send(harness, one, report(constant(0.0)))

    answers = [await send(harness, one, report(VICTIM, of=one)) for one in claims[12:]]
    await harness.coordinator.tick()

    assert isinstance(answers[-1], Receipt)
    (closed, *_) = await listed_rounds(harness.coordinator, T)
    assert (closed.phase, closed.counted, closed.result_version) == ("closed", 16, 1)


async def test_evidence_that_is_sent_three_times_does_not_let_a_fourth_be_stored(
    harness: CoordinatorHarness,
) -> None:
    await open_task(harness)
    claims = await assigned(harness, 5)
    for one in claims[:3]:
        await send(harness, one, evidence_report(evidence()))

    alone = await send(harness, claims[3], evidence_report(evidence(gain=0.5)))

    assert alone == ProblemCode.REPORT_PENDING
    assert await stored_sums(harness) == []


async def test_a_report_that_another_process_has_counted_leaves_a_batch_as_large_as_what_is_left(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 12")
    claims = await cohort(harness, 8)
    # Two that are alike and two others: one more, and the batch is large enough.
    batch = [report(VICTIM), report(VICTIM), *(report(VICTIM, of=one) for one in claims[2:4])]
    for one, message in zip(claims, batch, strict=False):
        await send(harness, one, message)
    await harness.coordinator.tick()
    other = harness.another_coordinator("other")
    await other.start()
    await other.tick()
    for one in [*claims[3:7]]:
        try:
            await other.reports.report(one, report(VICTIM, of=one))
        except ApiError as refused:
            assert refused.code is ProblemCode.REPORT_PENDING  # noqa: PT017 - the answer is not what is tested

    # The fourth of this batch is counted elsewhere: three distinct reports are left, which is too few.
    answer = await send(harness, claims[7], report(VICTIM, of=claims[7]))

    assert answer == ProblemCode.REPORT_PENDING
    (row,) = await harness.store.rounds.partials(RoundId("t-1"))
    assert row.count == 4
    await other.stop()


def container(delta: np.ndarray) -> bytes:
    return encode(delta, LAYOUT, Float32Spec(), seed=0)


def pending_of(*deltas: np.ndarray) -> PendingSum:
    pending = PendingSum(LAYOUT, DeltaValidator(Aggregation(), {"codec": NormScale.initial(1.0)}))
    codec = AssignedCodec(Float32Spec(), 0, "codec")
    for at, delta in enumerate(deltas):
        pending.add(AssignmentId(f"a{at}"), container(delta), codec, 1.0)
    return pending


def test_a_batch_is_measured_anew_without_the_report_that_another_repeats() -> None:
    pending = pending_of(VICTIM, VICTIM, constant(2.0), constant(0.0))

    taken = pending.take(lambda size: size == Pending(4, 2))
    assert taken is not None
    rest = pending.without(taken, [AssignmentId("a0")])
    pending.give_back(rest)

    assert rest.size == Pending(3, 2)
    assert pending.size == Pending(3, 2)
    assert rest.sum.norms.count("codec") == 2


def test_a_report_that_is_dropped_leaves_a_batch_as_large_as_the_others_are_distinct() -> None:
    pending = pending_of(VICTIM, constant(2.0), constant(3.0), constant(3.0))

    dropped = pending.drop([AssignmentId("a0"), AssignmentId("a3"), AssignmentId("elsewhere")])

    assert dropped == (AssignmentId("a0"), AssignmentId("a3"))
    assert pending.size == Pending(2, 2)


class UnsafeFlushRecorder(NullObserver):
    """Records the tasks that were reported as unsafe."""

    def __init__(self) -> None:
        self.tasks: list[tuple[TaskName, int]] = []

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        self.tasks.append((task, min_flush_clients))


async def test_a_task_whose_flush_may_be_smaller_is_warned_of_and_marked_in_every_view() -> None:
    warned = UnsafeFlushRecorder()
    harness = CoordinatorHarness(observer=warned)
    await harness.coordinator.start()
    await harness.create_population()

    created = await harness.coordinator.tasks.create(
        task_spec("unsafe", round="goal = 4\nmin_flush_clients = 3\nunsafe_single_flush = true"), audit=AUDIT
    )
    await harness.coordinator.tasks.create(task_spec("safe"), audit=AUDIT)
    await harness.coordinator.tick()

    assert warned.tasks == [("unsafe", 3)]
    assert created.is_unsafe_flush
    assert [view.is_unsafe_flush for view in await listed_tasks(harness.coordinator)] == [False, True]
    (round_1,) = await listed_rounds(harness.coordinator, TaskName("unsafe"))
    assert (
        round_1.is_unsafe_flush,
        (await harness.coordinator.tasks.round(RoundId("safe-1"))).is_unsafe_flush,
    ) == (
        True,
        False,
    )
    await harness.coordinator.stop()


async def test_phones_that_are_forgotten_leave_no_batch_larger_than_what_is_left_of_it(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    phones = [await harness.enrol() for _ in range(8)]
    claims = [await harness.assigned(phone) for phone in phones]
    for one in claims[:3]:
        await send(harness, one, report(VICTIM, of=one))
    for phone in phones[:3]:
        await harness.forget(phone)

    alone = await send(harness, claims[3], report(VICTIM, of=claims[3]))
    await harness.coordinator.tick()

    assert alone == ProblemCode.REPORT_PENDING
    assert await stored_sums(harness) == []
