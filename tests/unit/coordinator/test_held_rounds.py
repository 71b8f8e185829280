"""A version that does not pass the checks is nobody's newest until an operator says so, on the record."""

from dataclasses import replace

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import (
    ABSURD,
    BECAUSE,
    FIRST,
    HeldRoundRecorder,
    T,
    cohort,
    held_round,
    play,
    refusal,
    send,
)
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant
from tests.unit.coordinator.listed import listed_devices, listed_populations, listed_rounds

from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    Failure,
    FailureCause,
    Offer,
    OfferAction,
    Receipt,
    Refusal,
    RefusalReason,
)
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.blob_identity import MARKER_KEY

pytestmark = pytest.mark.fault("D8")

BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'
U = TaskName("u")


async def released(harness: CoordinatorHarness) -> int:
    return (await harness.coordinator.downlink.release(POPULATION)).model_version


async def kinds_of_blobs(harness: CoordinatorHarness) -> set[str]:
    kinds = {blob.key.split("/")[0] async for blob in harness.blobs.list_blobs()}
    return kinds - {MARKER_KEY}


async def test_a_step_out_of_all_proportion_is_held_and_keyboards_keep_what_they_have(
    harness: CoordinatorHarness,
) -> None:
    view = await held_round(harness)

    assert await released(harness) == 0
    assert view.result_version is None
    assert "more than 30 times the longest mean delta" in view.detail
    assert view.figures is not None
    assert view.figures["step_norm"] == pytest.approx(100 * view.figures["mean_delta_norm"])
    assert view.anchor_text == "no anchor text: versions are checked by the length of their steps alone"
    assert (await harness.coordinator.tasks.get(T)).held_round == "t-1"


async def test_operators_are_told_once_and_as_long_as_it_waits() -> None:
    watching = HeldRoundRecorder()
    harness = CoordinatorHarness(observer=watching)
    await harness.coordinator.start()
    await harness.create_population()

    view = await held_round(harness)
    await harness.coordinator.tick()
    waiting = watching.waiting
    await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()

    assert watching.held == [("t", 1, view.detail)]
    assert (waiting, watching.waiting) == (1, 0)
    await harness.coordinator.stop()


async def test_a_loss_that_rises_on_the_anchor_text_holds_a_step_of_ordinary_length() -> None:
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    anchor = np.array([[1, 4, 5, 6, 2]] * 4, np.int32)
    await harness.create_population(anchor=anchor)
    await harness.task()

    await play(harness, 1.0)  # all weights alike: nothing is said of any word
    await play(harness, -20.0)

    (population,) = await listed_populations(harness.coordinator)
    first, second = (await listed_rounds(harness.coordinator, T))[:2]
    assert population.anchor_text == "12 words of public text"
    assert first.figures is not None
    assert first.figures["anchor_loss"] == pytest.approx(first.figures["anchor_loss_before"], abs=1.0)
    assert second.phase == "held"
    await harness.coordinator.stop()


async def test_a_step_far_beyond_those_before_it_is_held(harness: CoordinatorHarness) -> None:
    await harness.task(aggregation="clip_norm_ratio = 0\nmax_norm_ratio = 0")
    await play(harness, 1.0)

    await play(harness, 6.0)

    (_, second) = await listed_rounds(harness.coordinator, T)
    assert second.phase == "held"
    assert "more than 5 times the longest of the last 1 rounds" in second.detail


async def test_phones_are_told_that_the_task_pauses_and_others_tasks_go_on(
    harness: CoordinatorHarness,
) -> None:
    await held_round(harness)
    paused = await harness.check_in(await harness.enrol())
    await harness.task("u")
    other = await harness.check_in(await harness.enrol())

    assert isinstance(paused, Refusal)
    assert paused.reason is RefusalReason.PAUSED
    assert paused.return_window.min_s >= 60.0
    assert isinstance(other, Assignment)
    assert other.task == "u"


async def test_no_further_round_opens_and_reports_are_too_late(harness: CoordinatorHarness) -> None:
    await harness.task(optimizer=ABSURD)
    claims = await cohort(harness, 5)
    for one in claims[:4]:
        await send(harness, one)
    await harness.coordinator.tick()
    await harness.coordinator.tick()

    offered = await harness.coordinator.reports.offer(
        claims[4], Offer(model_version=ModelVersion(0), size_bytes=9)
    )
    late = await send(harness, claims[4])
    again = await send(harness, claims[0])

    assert [one.phase for one in await listed_rounds(harness.coordinator, T)] == ["held"]
    assert offered.action is OfferAction.DROP
    assert late is ProblemCode.ROUND_GONE
    assert isinstance(again, Receipt)
    assert again.duplicate


async def test_reports_to_a_buffer_that_is_held_are_gone_and_nothing_is_held_against_their_phones(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER, optimizer=ABSURD)
    claims = await cohort(harness, 8)
    waiting = [await send(harness, one) for one in claims[:5]]
    await harness.coordinator.tick()

    late = await send(harness, claims[5])
    offered = await harness.coordinator.reports.offer(
        claims[6], Offer(model_version=ModelVersion(0), size_bytes=9)
    )
    await harness.coordinator.reports.failure(claims[7], Failure(cause=FailureCause.INTERRUPTED))
    repeated = await send(harness, claims[4])
    paused = await harness.check_in(await harness.enrol())

    # The fifth came after the goal: it waited for the next buffer, of which there is none now.
    assert waiting[4] is ProblemCode.REPORT_PENDING
    assert (late, repeated) == (ProblemCode.ROUND_GONE, ProblemCode.ROUND_GONE)
    assert offered.action is OfferAction.DROP
    assert isinstance(paused, Refusal)
    assert paused.reason is RefusalReason.PAUSED
    devices = await listed_devices(harness.coordinator, POPULATION)
    assert all(not one.strikes for one in devices)
    row = await harness.store.assignments.get(FIRST, claims[7].device)
    assert row is not None
    assert row.state == "failed"


async def test_a_buffer_goes_on_after_a_decision_without_what_was_told_to_be_gone(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER, optimizer=ABSURD, checks="max_step_growth = 0")
    claims = await cohort(harness, 8)
    for one in claims[:5]:
        await send(harness, one)
    await harness.coordinator.tick()

    await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    for one in claims[5:]:
        await send(harness, one)
    await send(harness, (await cohort(harness, 1))[0])
    await harness.coordinator.tick()

    first, second = (await listed_rounds(harness.coordinator, T))[:2]
    assert (first.result_version, first.counted) == (1, 4)
    assert second.counted == 4


async def test_an_accepted_version_is_published_with_both_reasons_on_record(
    harness: CoordinatorHarness,
) -> None:
    held = await held_round(harness)

    answer = await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)
    again = await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()

    view = await harness.coordinator.tasks.round(FIRST)
    assert (answer.phase, again.phase) == ("stepped", "stepped")
    assert (view.phase, view.result_version, await released(harness)) == ("closed", 1, 1)
    assert view.detail == f"{held.detail} Accepted: {BECAUSE.reason}"
    version = await harness.store.populations.version(POPULATION, ModelVersion(1))
    assert version is not None
    assert version.note == view.detail
    np.testing.assert_allclose(await harness.model(1), constant(-100.0))
    assert (await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)).phase == "closed"


async def test_a_discarded_round_leaves_nothing_but_its_record_and_the_next_one_opens(
    harness: CoordinatorHarness,
) -> None:
    held = await held_round(harness)

    view = await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    again = await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()

    assert view.phase == again.phase == "discarded"
    assert view.detail == (
        f"{held.detail} Discarded by an operator: {BECAUSE.reason}. The sum of 4 reports was discarded."
    )
    assert (view.counted, view.result_version, await released(harness)) == (4, None, 0)
    assert await kinds_of_blobs(harness) == {"versions"}
    assert await harness.store.rounds.partials(FIRST) == []
    assert [one.phase for one in await listed_rounds(harness.coordinator, T)] == ["discarded", "collecting"]


async def test_only_a_held_round_can_be_decided_and_only_once(harness: CoordinatorHarness) -> None:
    await held_round(harness)
    await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()
    there, nowhere = RoundId("t-2"), RoundId("t-9")

    assert await refusal(harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)) is ProblemCode.CONFLICT
    assert await refusal(harness.coordinator.tasks.accept_round(there, audit=BECAUSE)) is ProblemCode.CONFLICT
    assert (
        await refusal(harness.coordinator.tasks.discard_round(there, audit=BECAUSE)) is ProblemCode.CONFLICT
    )
    assert (
        await refusal(harness.coordinator.tasks.discard_round(nowhere, audit=BECAUSE))
        is ProblemCode.NOT_FOUND
    )


@pytest.mark.parametrize("start", [1e38, 1e17], ids=["infinite", "beyond arithmetic"])
async def test_a_step_that_is_not_finite_is_held_writes_nothing_and_can_only_be_discarded(
    start: float,
) -> None:
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population(constant(start))
    await harness.task(optimizer=f"{ABSURD}\nweight_decay = 1")
    await play(harness)
    await harness.coordinator.tick()
    view = await harness.coordinator.tasks.round(FIRST)

    refused = await refusal(harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE))
    await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()

    assert view.phase == "held"
    assert "infinite or no number" in view.detail
    assert refused is ProblemCode.CONFLICT
    assert [one.phase for one in await listed_rounds(harness.coordinator, T)] == ["discarded", "collecting"]
    assert await kinds_of_blobs(harness) == {"versions"}
    await harness.coordinator.stop()


async def test_another_tasks_version_does_not_pass_for_what_was_accepted(harness: CoordinatorHarness) -> None:
    await held_round(harness)
    await harness.task("u")
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)
    for one in claims:
        await send(harness, one)
    # The other task's round is closed first: what was accepted is stepped again, from its version.
    tasks = harness.coordinator.registry._states
    tasks[T], tasks[U] = tasks.pop(T), tasks.pop(U)
    reordered = {U: tasks.pop(U), T: tasks.pop(T)}
    tasks.update(reordered)

    await harness.coordinator.tick()

    view = await harness.coordinator.tasks.round(FIRST)
    assert (view.phase, await released(harness)) == ("held", 1)
    assert "Accepted" not in view.detail


async def test_a_cancelled_task_gives_its_held_sum_up_on_the_record(harness: CoordinatorHarness) -> None:
    held = await held_round(harness)

    await harness.coordinator.tasks.cancel(T, audit=AUDIT)

    view = await harness.coordinator.tasks.round(FIRST)
    assert (view.phase, await released(harness)) == ("cancelled", 0)
    assert view.detail == (
        f"{held.detail} The task was cancelled by an operator. The sum of 4 reports was discarded."
    )
    assert await kinds_of_blobs(harness) == {"versions"}


async def test_a_restart_finds_a_held_round_held(harness: CoordinatorHarness) -> None:
    held = await held_round(harness)

    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    await harness.coordinator.tick()

    assert await harness.coordinator.tasks.round(FIRST) == held
    assert isinstance(await harness.check_in(await harness.enrol()), Refusal)
    await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)
    await harness.coordinator.tick()
    assert await released(harness) == 1


async def test_another_replica_decides_and_the_leader_goes_on(harness: CoordinatorHarness) -> None:
    leader, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    harness.coordinator = leader
    await leader.start()
    await held_round(harness)
    await other.start()

    await other.tasks.accept_round(FIRST, audit=BECAUSE)
    harness.pass_time(1.0)
    await leader.tick()
    published = await released(harness)
    await leader.tick()
    await other.tick()
    await play(harness, 1.0)
    harness.pass_time(601.0)
    await leader.tick()

    assert published == 1
    rounds = await listed_rounds(leader, T)
    assert rounds[0].phase == "closed"
    await leader.stop()
    await other.stop()


async def test_a_step_of_a_release_that_measured_nothing_is_made_again_and_checked(
    harness: CoordinatorHarness,
) -> None:
    await held_round(harness)
    record = await harness.store.rounds.get(FIRST)
    assert record is not None
    unmeasured = replace(record.round, phase=Phase.STEPPED, detail="", figures_json="")
    harness.store.rounds._rows.rounds[FIRST] = replace(record, round=unmeasured)  # type: ignore[attr-defined]
    harness.coordinator = harness.another_coordinator()

    await harness.coordinator.start()
    await harness.coordinator.tick()

    view = await harness.coordinator.tasks.round(FIRST)
    assert (view.phase, await released(harness)) == ("held", 0)
    assert view.figures is not None


@pytest.mark.parametrize(
    ("reports", "detail"),
    [
        (0, "The task was cancelled by an operator."),
        (4, "The task was cancelled by an operator. What the round had counted was discarded."),
    ],
)
async def test_a_task_that_is_cancelled_while_it_collects_says_what_it_gives_up(
    harness: CoordinatorHarness, reports: int, detail: str
) -> None:
    await harness.task(round="goal = 8")
    for one in (await cohort(harness, 4))[:reports]:
        await send(harness, one)

    await harness.coordinator.tasks.cancel(T, audit=AUDIT)

    view = await harness.coordinator.tasks.round(FIRST)
    assert (view.phase, view.counted, view.detail) == ("cancelled", reports, detail)
