"""A round from the first check-in to the next version."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds, listed_tasks

from keyflock_compression import DenseSpec
from keyflock_server.coordinator import Coordinator
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Failure, FailureCause, Offer, OfferAction, Receipt, Refusal
from keyflock_server.protocol.messages import RefusalReason as Reason
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.interfaces.group_writer import OperationOutcome
from keyflock_server.storage.records import RoundRecord


async def cohort(harness: CoordinatorHarness, size: int) -> list[AssignmentClaims]:
    """Enrol new devices and return their assignments."""
    return [await harness.assigned(await harness.enrol()) for _ in range(size)]


async def send(
    harness: CoordinatorHarness, claims: AssignmentClaims, value: float, examples: int = 1
) -> Receipt | ProblemCode:
    """Send one report of a constant delta and return the answer."""
    try:
        return await harness.coordinator.reports.report(claims, report(constant(value), examples, of=claims))
    except ApiError as refused:
        return refused.code


async def send_all(
    harness: CoordinatorHarness, claims: Sequence[AssignmentClaims], *values: float
) -> list[Receipt | ProblemCode]:
    return [await send(harness, one, value) for one, value in zip(claims, values, strict=True)]


async def test_a_round_steps_the_model_by_the_weighted_mean_of_its_reports(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    claims = await cohort(harness, 4)

    for one, value, examples in zip(claims, (1.0, 2.0, 3.0, 4.0), (1, 2, 3, 4), strict=True):
        await send(harness, one, value, examples=examples)
    await harness.coordinator.tick()

    # (1*1 + 2*2 + 3*3 + 4*4) / 10 = 3, and delta is before minus after.
    np.testing.assert_array_equal(await harness.model(1), constant(-3.0))
    (closed, opened) = await listed_rounds(
        harness.coordinator, (await listed_tasks(harness.coordinator))[0].name
    )
    assert (closed.phase, closed.counted, closed.weight, closed.result_version) == ("closed", 4, 10.0, 1)
    assert (opened.phase, opened.sequence, opened.model_version) == ("collecting", 2, 1)


async def test_with_one_device_no_compression_and_rate_one_a_round_equals_local_training(
    harness: CoordinatorHarness,
) -> None:
    rng = np.random.default_rng(7)
    await harness.task(
        round="goal = 1\nmin_flush_clients = 1\nunsafe_single_flush = true\nover_selection = 0.0"
    )
    before = await harness.model(0)
    after_training = rng.standard_normal(LAYOUT.size).astype(np.float32)
    (claims,) = await cohort(harness, 1)

    await harness.coordinator.reports.report(claims, report(before - after_training, of=claims))
    await harness.coordinator.tick()

    master = await harness.coordinator.models.checkpoint(POPULATION, 1)
    np.testing.assert_allclose(master.weights, after_training, rtol=0, atol=1e-7)


async def test_nobody_is_acknowledged_before_the_batch_is_committed(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)

    first_three = await send_all(harness, claims[:3], 1, 1, 1)
    fourth = await send(harness, claims[3], 1)
    again = await send_all(harness, claims[:3], 1, 1, 1)

    assert first_three == [ProblemCode.REPORT_PENDING] * 3
    assert isinstance(fourth, Receipt)
    assert not fourth.duplicate
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 3


async def test_the_last_flush_of_a_round_is_never_smaller_than_the_others(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 10")
    claims = await cohort(harness, 10)

    answers = [isinstance(await send(harness, one, 1), Receipt) for one in claims]

    # 4 leave 6 to come; 8 would leave 2, so the rest goes together.
    assert answers == [False, False, False, True, False, False, False, False, False, True]


async def test_a_repeated_report_is_counted_once_and_another_is_a_conflict(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    await send_all(harness, claims, 1, 1, 1, 1)

    same = await send(harness, claims[0], 1)
    other_bytes = await send(harness, claims[0], 2)
    other_examples = await send(harness, claims[0], 1, examples=9)

    assert isinstance(same, Receipt)
    assert same.duplicate
    assert other_bytes == ProblemCode.REPORT_CONFLICT
    assert other_examples == ProblemCode.REPORT_CONFLICT
    (current,) = await listed_rounds(harness.coordinator, claims[0].task)
    assert (current.counted, current.weight) == (4, 4.0)


async def test_reports_that_arrive_together_are_each_counted_once(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 12")
    claims = await cohort(harness, 12)

    await asyncio.gather(*(send(harness, one, 1) for one in [*claims, *claims, *claims]))
    await harness.coordinator.tick()

    (closed, _) = await listed_rounds(harness.coordinator, claims[0].task)
    assert (closed.phase, closed.counted) == ("closed", 12)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_late_report_is_refused_and_the_round_is_unchanged(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5")
    claims = await cohort(harness, 6)
    await send_all(harness, claims[:4], 1, 1, 1, 1)
    await harness.coordinator.tick()

    too_late = await send(harness, claims[4], 9)
    counted_before = await send(harness, claims[0], 1)

    assert too_late == ProblemCode.ROUND_GONE
    assert isinstance(counted_before, Receipt)
    assert counted_before.duplicate
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_at_the_deadline_a_round_closes_with_its_minimum_and_drops_who_was_not_acknowledged(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 12\nminimum = 8\ndeadline_s = 100.0")
    claims = await cohort(harness, 12)
    await send_all(harness, claims[:9], *[1.0] * 9)
    harness.pass_time(101)

    await harness.coordinator.tick()

    (closed, _) = await listed_rounds(harness.coordinator, claims[0].task)
    acknowledged = [isinstance(await send(harness, one, 1.0), Receipt) for one in claims[:9]]
    assert (closed.phase, closed.counted) == ("closed", 8)
    assert acknowledged == [True] * 8 + [False]


async def test_a_round_that_misses_its_minimum_is_abandoned_and_says_so(harness: CoordinatorHarness) -> None:
    await harness.task(round='goal = 12\nminimum = 8\ndeadline_s = 100.0\non_miss = "abandon"')
    claims = await cohort(harness, 12)
    await send_all(harness, claims[:5], *[1.0] * 5)
    harness.pass_time(101)

    await harness.coordinator.tick()

    (abandoned, following) = await listed_rounds(harness.coordinator, claims[0].task)
    assert (abandoned.phase, abandoned.result_version) == ("abandoned", None)
    assert abandoned.detail == "4 reports by the deadline; the minimum was 8."
    assert (following.phase, following.model_version) == ("collecting", 0)
    assert [blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith("partials/")] == []


async def test_a_round_that_misses_its_minimum_begins_the_next_one_with_its_reports(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 12\nminimum = 8\ndeadline_s = 100.0\nmax_rounds = 1")
    await send_all(harness, (await cohort(harness, 12))[:5], *[8.0] * 5)
    harness.pass_time(101)

    await harness.coordinator.tick()
    (missed, following) = await listed_rounds(harness.coordinator, TaskName("t"))
    await send_all(harness, await cohort(harness, 8), *[2.0] * 8)
    await harness.coordinator.tick()

    assert (missed.phase, missed.counted, missed.detail) == (
        "carried",
        4,
        "4 reports by the deadline; the minimum was 8.",
    )
    assert (following.phase, following.carried, following.counted) == ("collecting", 4, 0)
    (_, closed) = await listed_rounds(harness.coordinator, TaskName("t"))
    assert (closed.phase, closed.carried, closed.counted, closed.weight) == ("closed", 4, 8, 12.0)
    np.testing.assert_array_equal(await harness.model(1), constant(-4.0))
    assert [blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith("partials/")] == []


async def test_what_a_missed_round_brought_is_given_up_once_the_model_has_moved(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 12\nminimum = 8\ndeadline_s = 100.0")
    await send_all(harness, (await cohort(harness, 12))[:5], *[8.0] * 5)
    await harness.coordinator.tasks.create(task_spec("other"), audit=AUDIT)
    await harness.coordinator.tick()
    await harness.coordinator.tasks.pause(TaskName("t"), audit=AUDIT)
    await send_all(harness, await cohort(harness, 4), *[1.0] * 4)
    await harness.coordinator.tick()
    harness.pass_time(101)

    await harness.coordinator.tick()

    (missed,) = await listed_rounds(harness.coordinator, TaskName("t"))
    assert (missed.phase, missed.model_version) == ("abandoned", 0)


@pytest.mark.parametrize(
    ("delta", "code"),
    [
        (b"not a container", ProblemCode.MALFORMED_DELTA),
        (report(constant(1), spec=DenseSpec()).delta, ProblemCode.MALFORMED_DELTA),
    ],
    ids=["garbage", "another codec than assigned"],
)
async def test_a_bad_delta_is_refused_and_a_good_one_may_follow(
    harness: CoordinatorHarness, delta: bytes, code: ProblemCode
) -> None:
    await harness.task(round="goal = 4")
    claims = await cohort(harness, 4)
    bad = report(constant(1))
    bad = type(bad)(delta=delta, examples=1)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.reports.report(claims[0], bad)
    await send_all(harness, claims, 1, 1, 1, 1)

    assert refused.value.code is code
    (current,) = await listed_rounds(harness.coordinator, claims[0].task)
    assert current.counted == 4


async def test_a_delta_far_beyond_the_norm_scale_is_refused_also_if_it_comes_first(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 20", aggregation="max_norm_ratio = 100.0")
    claims = await cohort(harness, 2)

    # The scale is the norm of the server's own delta, 0.21; a constant's is 9.3 times the value.
    monster, ordinary = await send_all(harness, claims, 3.0, 1.0)

    assert monster == ProblemCode.DELTA_TOO_LARGE
    assert ordinary == ProblemCode.REPORT_PENDING


async def test_a_repeated_check_in_gets_the_same_assignment_and_takes_no_second_slot(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    identity = await harness.enrol()

    first = await harness.assigned(identity)
    second = await harness.assigned(identity)

    assert first == second
    (current,) = await listed_rounds(harness.coordinator, first.task)
    assert current.assigned == 1


async def test_over_selection_bounds_the_cohort(harness: CoordinatorHarness) -> None:
    spec = await harness.task(round="goal = 10\nover_selection = 0.3")
    await cohort(harness, 13)

    answer = await harness.check_in(await harness.enrol())

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.ROUND_FULL
    assert answer.return_window.min_s >= spec.pacing.min_s


async def test_an_offer_saves_an_upload_that_would_not_count(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.5")
    claims = await cohort(harness, 6)
    offer = Offer(size_bytes=100, model_version=claims[0].model_version)
    while_open = await harness.coordinator.reports.offer(claims[4], offer)
    stale = await harness.coordinator.reports.offer(
        claims[4], Offer(size_bytes=100, model_version=type(offer.model_version)(7))
    )
    await send_all(harness, claims[:4], 1, 1, 1, 1)

    goal_met = await harness.coordinator.reports.offer(claims[4], offer)
    counted = await harness.coordinator.reports.offer(claims[0], offer)
    await harness.coordinator.tick()
    round_over = await harness.coordinator.reports.offer(claims[5], offer)

    assert while_open.action is OfferAction.SEND
    assert stale.action is OfferAction.REBASE
    assert goal_met.action is OfferAction.DROP
    assert counted.action is OfferAction.DROP
    assert round_over.action is OfferAction.DROP


async def test_an_assignment_that_was_given_back_is_not_reported(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4")
    (claims,) = await cohort(harness, 1)
    failure = Failure(cause=FailureCause.INTERRUPTED, session_shape="-v[!")

    await harness.coordinator.reports.failure(claims, failure)
    await harness.coordinator.reports.failure(claims, failure)

    assert await send(harness, claims, 1) == ProblemCode.ROUND_GONE
    (current,) = await listed_rounds(harness.coordinator, claims.task)
    assert (current.assigned, current.failed, current.counted) == (1, 1, 0)


async def test_a_task_ends_after_its_last_round(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 1")
    claims = await cohort(harness, 4)
    await send_all(harness, claims, 1, 1, 1, 1)
    await harness.coordinator.tick()

    answer = await harness.check_in(await harness.enrol())

    assert (await harness.coordinator.tasks.get(claims[0].task)).state == "finished"
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.NO_ACTIVE_TASK


async def test_a_paused_task_gives_no_work_and_still_takes_reports(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4")
    claims = await cohort(harness, 4)
    await harness.coordinator.tasks.pause(claims[0].task, audit=AUDIT)

    refusal = await harness.check_in(await harness.enrol())
    answers = await send_all(harness, claims, 1, 1, 1, 1)
    await harness.coordinator.tick()
    await harness.coordinator.tasks.resume(claims[0].task, audit=AUDIT)
    await harness.coordinator.tick()

    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.PAUSED
    assert isinstance(answers[-1], Receipt)
    assert [one.phase for one in await listed_rounds(harness.coordinator, claims[0].task)] == [
        "closed",
        "collecting",
    ]


async def test_a_cancelled_task_ends_its_round_and_stays_cancelled(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 8)
    await send_all(harness, claims[:5], 1, 1, 1, 1, 1)

    await harness.coordinator.tasks.cancel(claims[0].task, audit=AUDIT)

    assert await send(harness, claims[5], 1) == ProblemCode.ROUND_GONE
    assert [one.phase for one in await listed_rounds(harness.coordinator, claims[0].task)] == ["cancelled"]
    with pytest.raises(ApiError) as refused:
        await harness.coordinator.tasks.resume(claims[0].task, audit=AUDIT)
    assert refused.value.code is ProblemCode.CONFLICT


async def test_a_forgotten_device_leaves_nothing_behind_and_its_sum_stays(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4")
    claims = await cohort(harness, 4)
    await send_all(harness, claims, 1, 1, 1, 1)

    identity = DeviceIdentity(claims[0].device, POPULATION)
    gone = await harness.forget(identity)
    await harness.coordinator.tick()

    assert gone == 1
    rows = await harness.store.assignments.list_by_round(claims[0].round)
    assert claims[0].device not in {row.device for row in rows}
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))
    with pytest.raises(ApiError) as again:
        await harness.forget(identity)
    assert again.value.code is ProblemCode.TOKEN_INVALID


async def test_whoever_waits_while_the_server_stops_is_told_to_send_again() -> None:
    harness = CoordinatorHarness(ack_wait_s=60.0)
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round="goal = 8")
    (claims,) = await cohort(harness, 1)

    waiting = asyncio.create_task(send(harness, claims, 1))
    while not harness.coordinator.registry._states[claims.task].open_round.batch.sum.size.reports:  # type: ignore[union-attr]  # noqa: ASYNC110 - it is open; there is no event for "decoded"
        await asyncio.sleep(0)
    await harness.coordinator.stop()

    assert await waiting == ProblemCode.NOT_READY


async def restarted(harness: CoordinatorHarness) -> Coordinator:
    """Start another process on the same store, without stopping the first."""
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    return harness.coordinator


async def test_after_a_crash_what_was_acknowledged_is_there_and_what_was_not_may_come_again(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 10")
    claims = await cohort(harness, 10)
    await send_all(harness, claims[:6], *[1.0] * 6)

    await restarted(harness)
    again = await send_all(harness, claims, *[1.0] * 10)
    await harness.coordinator.tick()

    # Four were committed before the crash; two were in memory only and are taken in anew.
    assert [isinstance(one, Receipt) and one.duplicate for one in again[:4]] == [True] * 4
    (closed, _) = await listed_rounds(harness.coordinator, claims[0].task)
    assert (closed.phase, closed.counted) == ("closed", 10)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_device_that_contributed_too_recently_is_told_how_long_to_wait(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4", eligibility="min_separation_s = 1000.0")
    claims = await cohort(harness, 4)
    await send_all(harness, claims, 1, 1, 1, 1)
    await harness.coordinator.tick()
    harness.pass_time(400)

    answer = await harness.check_in(type(await harness.enrol())(claims[0].device, POPULATION))

    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.TOO_SOON
    assert answer.return_window.min_s == 600.0


async def test_reports_that_come_in_while_a_flush_is_decided_do_not_strand_the_rest(
    harness: CoordinatorHarness,
) -> None:
    """A flush of five of eight would leave three that nobody may commit and no one may join."""
    await harness.task(round="goal = 8\nmax_rounds = 20")

    for _ in range(20):
        claims = await cohort(harness, 8)
        for group in (claims[:3], claims[3:5], claims[5:]):
            await asyncio.gather(*(send(harness, one, 1) for one in group))
        await harness.coordinator.tick()

    rounds = await listed_rounds(harness.coordinator, claims[0].task)
    assert [(one.phase, one.counted) for one in rounds] == [("closed", 8)] * 20


async def test_a_failure_and_a_report_of_one_device_at_once_leave_a_round_that_ends(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 5\nminimum = 4\nover_selection = 0.0\ndeadline_s = 600.0")
    claims = await cohort(harness, 5)
    is_writing, may_write, write = asyncio.Event(), asyncio.Event(), harness.store.group_writer.commit

    async def slow(*arguments: Any) -> list[OperationOutcome]:  # noqa: ANN401 - whatever the table takes
        is_writing.set()
        await may_write.wait()
        return await write(*arguments)

    harness.store.group_writer.commit = slow  # type: ignore[assignment, method-assign]  # a transaction that takes its time
    failing = asyncio.create_task(
        harness.coordinator.reports.failure(claims[0], Failure(cause=FailureCause.INTERRUPTED))
    )
    await is_writing.wait()
    answer = await send(harness, claims[0], 1.0)
    may_write.set()
    await failing
    await send_all(harness, claims[1:], 1.0, 1.0, 1.0, 1.0)
    harness.pass_time(600.0)  # the slot that was given back is nobody's
    await harness.coordinator.tick()

    assert answer is ProblemCode.ROUND_GONE
    (round_1, *_) = await listed_rounds(harness.coordinator, TaskName("t"))
    assert (round_1.phase, round_1.counted, round_1.failed) == ("closed", 4, 1)


async def test_a_cancel_that_could_not_be_written_loses_no_counted_report(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 6\nminimum = 4")
    await send_all(harness, await cohort(harness, 4), 1.0, 1.0, 1.0, 1.0)
    harness.pass_time(700.0)
    before, advance = (
        harness.coordinator.registry._states[TaskName("t")].open_round,
        harness.store.rounds.advance,
    )
    assert before is not None
    partials = await harness.store.rounds.partials(before.id)

    async def fail_once(*_: object) -> RoundRecord:
        harness.store.rounds.advance = advance  # type: ignore[method-assign]  # the disk is well again
        raise StorageError("The disk is full.")

    harness.store.rounds.advance = fail_once  # type: ignore[assignment, method-assign]  # the next write fails
    with pytest.raises(StorageError):
        await harness.coordinator._rounds.cancel(harness.coordinator.registry._states[TaskName("t")])

    assert await harness.store.rounds.partials(before.id) == partials
    await harness.coordinator.tick()
    (round_1, *_) = await listed_rounds(harness.coordinator, TaskName("t"))
    assert (round_1.phase, round_1.counted) == ("closed", 4)
