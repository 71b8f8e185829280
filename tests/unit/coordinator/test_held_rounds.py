"""A version that does not pass the checks is nobody's newest until an operator says so, on the record."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.coordinator.diverging_task import (
    ABSURD,
    BECAUSE,
    FIRST,
    T,
    Watching,
    cohort,
    held_round,
    play,
    refusal,
    send,
)
from tests.unit.coordinator.town import POPULATION, Town, constant

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


async def released(town: Town) -> int:
    return (await town.coordinator.release(POPULATION)).model_version


async def kinds_of_blobs(town: Town) -> set[str]:
    kinds = {blob.key.split("/")[0] async for blob in town.blobs.list_blobs()}
    return kinds - {MARKER_KEY}


async def test_a_step_out_of_all_proportion_is_held_and_keyboards_keep_what_they_have(town: Town) -> None:
    view = await held_round(town)

    assert await released(town) == 0
    assert view.result_version is None
    assert "more than 30 times the longest mean delta" in view.detail
    assert view.figures is not None
    assert view.figures["step_norm"] == pytest.approx(100 * view.figures["mean_delta_norm"])
    assert view.anchor_text == "no anchor text: versions are checked by the length of their steps alone"
    assert (await town.coordinator.task(T)).held_round == "t-1"


async def test_operators_are_told_once_and_as_long_as_it_waits() -> None:
    watching = Watching()
    town = Town(observer=watching)
    await town.coordinator.start()
    await town.found()

    view = await held_round(town)
    await town.coordinator.tick()
    waiting = watching.waiting
    await town.coordinator.discard_round(FIRST, BECAUSE)
    await town.coordinator.tick()

    assert watching.held == [("t", 1, view.detail)]
    assert (waiting, watching.waiting) == (1, 0)
    await town.coordinator.stop()


async def test_a_loss_that_rises_on_the_anchor_text_holds_a_step_of_ordinary_length() -> None:
    town = Town()
    await town.coordinator.start()
    anchor = np.array([[1, 4, 5, 6, 2]] * 4, np.int32)
    await town.found(anchor=anchor)
    await town.task()

    await play(town, 1.0)  # all weights alike: nothing is said of any word
    await play(town, -20.0)

    (population,) = await town.coordinator.populations()
    first, second = (await town.coordinator.rounds(T))[:2]
    assert population.anchor_text == "12 words of public text"
    assert first.figures is not None
    assert first.figures["anchor_loss"] == pytest.approx(first.figures["anchor_loss_before"], abs=1.0)
    assert second.phase == "held"
    await town.coordinator.stop()


async def test_a_step_far_beyond_those_before_it_is_held(town: Town) -> None:
    await town.task(aggregation="clip_norm_ratio = 0\nmax_norm_ratio = 0")
    await play(town, 1.0)

    await play(town, 6.0)

    (_, second) = await town.coordinator.rounds(T)
    assert second.phase == "held"
    assert "more than 5 times the longest of the last 1 rounds" in second.detail


async def test_phones_are_told_that_the_task_pauses_and_others_tasks_go_on(town: Town) -> None:
    await held_round(town)
    paused = await town.check_in(await town.enrol())
    await town.task("u")
    other = await town.check_in(await town.enrol())

    assert isinstance(paused, Refusal)
    assert paused.reason is RefusalReason.PAUSED
    assert paused.return_window.min_s >= 60.0
    assert isinstance(other, Assignment)
    assert other.task == "u"


async def test_no_further_round_opens_and_reports_are_too_late(town: Town) -> None:
    await town.task(optimizer=ABSURD)
    claims = await cohort(town, 5)
    for one in claims[:4]:
        await send(town, one)
    await town.coordinator.tick()
    await town.coordinator.tick()

    offered = await town.coordinator.offer(claims[4], Offer(model_version=ModelVersion(0), size_bytes=9))
    late = await send(town, claims[4])
    again = await send(town, claims[0])

    assert [one.phase for one in await town.coordinator.rounds(T)] == ["held"]
    assert offered.action is OfferAction.DROP
    assert late is ProblemCode.ROUND_GONE
    assert isinstance(again, Receipt)
    assert again.duplicate


async def test_reports_to_a_buffer_that_is_held_are_gone_and_nothing_is_held_against_their_phones(
    town: Town,
) -> None:
    await town.task(round=BUFFER, optimizer=ABSURD)
    claims = await cohort(town, 8)
    waiting = [await send(town, one) for one in claims[:5]]
    await town.coordinator.tick()

    late = await send(town, claims[5])
    offered = await town.coordinator.offer(claims[6], Offer(model_version=ModelVersion(0), size_bytes=9))
    await town.coordinator.failure(claims[7], Failure(cause=FailureCause.INTERRUPTED))
    repeated = await send(town, claims[4])
    paused = await town.check_in(await town.enrol())

    # The fifth came after the goal: it waited for the next buffer, of which there is none now.
    assert waiting[4] is ProblemCode.REPORT_PENDING
    assert (late, repeated) == (ProblemCode.ROUND_GONE, ProblemCode.ROUND_GONE)
    assert offered.action is OfferAction.DROP
    assert isinstance(paused, Refusal)
    assert paused.reason is RefusalReason.PAUSED
    devices = (await town.coordinator.devices(POPULATION)).devices
    assert all(not one.strikes for one in devices)
    row = await town.store.rounds.assignment(FIRST, claims[7].device)
    assert row is not None
    assert row.state == "failed"


async def test_a_buffer_goes_on_after_a_decision_without_what_was_told_to_be_gone(town: Town) -> None:
    await town.task(round=BUFFER, optimizer=ABSURD, checks="max_step_growth = 0")
    claims = await cohort(town, 8)
    for one in claims[:5]:
        await send(town, one)
    await town.coordinator.tick()

    await town.coordinator.accept_round(FIRST, BECAUSE)
    await town.coordinator.tick()
    await town.coordinator.tick()
    for one in claims[5:]:
        await send(town, one)
    await send(town, (await cohort(town, 1))[0])
    await town.coordinator.tick()

    first, second = (await town.coordinator.rounds(T))[:2]
    assert (first.result_version, first.counted) == (1, 4)
    assert second.counted == 4


async def test_an_accepted_version_is_published_with_both_reasons_on_record(town: Town) -> None:
    held = await held_round(town)

    answer = await town.coordinator.accept_round(FIRST, BECAUSE)
    again = await town.coordinator.accept_round(FIRST, BECAUSE)
    await town.coordinator.tick()

    view = await town.coordinator.round(FIRST)
    assert (answer.phase, again.phase) == ("stepped", "stepped")
    assert (view.phase, view.result_version, await released(town)) == ("closed", 1, 1)
    assert view.detail == f"{held.detail} Accepted: {BECAUSE.reason}"
    version = await town.store.populations.version(POPULATION, ModelVersion(1))
    assert version is not None
    assert version.note == view.detail
    np.testing.assert_allclose(await town.model(1), constant(-100.0))
    assert (await town.coordinator.accept_round(FIRST, BECAUSE)).phase == "closed"


async def test_a_discarded_round_leaves_nothing_but_its_record_and_the_next_one_opens(town: Town) -> None:
    held = await held_round(town)

    view = await town.coordinator.discard_round(FIRST, BECAUSE)
    again = await town.coordinator.discard_round(FIRST, BECAUSE)
    await town.coordinator.tick()

    assert view.phase == again.phase == "discarded"
    assert view.detail == (
        f"{held.detail} Discarded by an operator: {BECAUSE.reason}. The sum of 4 reports was discarded."
    )
    assert (view.counted, view.result_version, await released(town)) == (4, None, 0)
    assert await kinds_of_blobs(town) == {"versions"}
    assert await town.store.rounds.partials(FIRST) == []
    assert [one.phase for one in await town.coordinator.rounds(T)] == ["discarded", "collecting"]


async def test_only_a_held_round_can_be_decided_and_only_once(town: Town) -> None:
    await held_round(town)
    await town.coordinator.discard_round(FIRST, BECAUSE)
    await town.coordinator.tick()
    there, nowhere = RoundId("t-2"), RoundId("t-9")

    assert await refusal(town.coordinator.accept_round(FIRST, BECAUSE)) is ProblemCode.CONFLICT
    assert await refusal(town.coordinator.accept_round(there, BECAUSE)) is ProblemCode.CONFLICT
    assert await refusal(town.coordinator.discard_round(there, BECAUSE)) is ProblemCode.CONFLICT
    assert await refusal(town.coordinator.discard_round(nowhere, BECAUSE)) is ProblemCode.NOT_FOUND


@pytest.mark.parametrize("start", [1e38, 1e17], ids=["infinite", "beyond arithmetic"])
async def test_a_step_that_is_not_finite_is_held_writes_nothing_and_can_only_be_discarded(
    start: float,
) -> None:
    town = Town()
    await town.coordinator.start()
    await town.found(constant(start))
    await town.task(optimizer=f"{ABSURD}\nweight_decay = 1")
    await play(town)
    await town.coordinator.tick()
    view = await town.coordinator.round(FIRST)

    refused = await refusal(town.coordinator.accept_round(FIRST, BECAUSE))
    await town.coordinator.discard_round(FIRST, BECAUSE)
    await town.coordinator.tick()

    assert view.phase == "held"
    assert "infinite or no number" in view.detail
    assert refused is ProblemCode.CONFLICT
    assert [one.phase for one in await town.coordinator.rounds(T)] == ["discarded", "collecting"]
    assert await kinds_of_blobs(town) == {"versions"}
    await town.coordinator.stop()


async def test_another_tasks_version_does_not_pass_for_what_was_accepted(town: Town) -> None:
    await held_round(town)
    await town.task("u")
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]
    await town.coordinator.accept_round(FIRST, BECAUSE)
    for one in claims:
        await send(town, one)
    # The other task's round is closed first: what was accepted is stepped again, from its version.
    desks = town.coordinator._desks
    desks[T], desks[U] = desks.pop(T), desks.pop(U)
    reordered = {U: desks.pop(U), T: desks.pop(T)}
    desks.update(reordered)

    await town.coordinator.tick()

    view = await town.coordinator.round(FIRST)
    assert (view.phase, await released(town)) == ("held", 1)
    assert "Accepted" not in view.detail


async def test_a_cancelled_task_gives_its_held_sum_up_on_the_record(town: Town) -> None:
    held = await held_round(town)

    await town.coordinator.cancel_task(T)

    view = await town.coordinator.round(FIRST)
    assert (view.phase, await released(town)) == ("cancelled", 0)
    assert view.detail == (
        f"{held.detail} The task was cancelled by an operator. The sum of 4 reports was discarded."
    )
    assert await kinds_of_blobs(town) == {"versions"}


async def test_a_restart_finds_a_held_round_held(town: Town) -> None:
    held = await held_round(town)

    town.coordinator = town.another_coordinator()
    await town.coordinator.start()
    await town.coordinator.tick()

    assert await town.coordinator.round(FIRST) == held
    assert isinstance(await town.check_in(await town.enrol()), Refusal)
    await town.coordinator.accept_round(FIRST, BECAUSE)
    await town.coordinator.tick()
    assert await released(town) == 1


async def test_another_replica_decides_and_the_leader_goes_on(town: Town) -> None:
    leader, other = town.another_coordinator("a"), town.another_coordinator("b")
    town.coordinator = leader
    await leader.start()
    await held_round(town)
    await other.start()

    await other.accept_round(FIRST, BECAUSE)
    town.pass_time(1.0)
    await leader.tick()
    published = await released(town)
    await leader.tick()
    await other.tick()
    await play(town, 1.0)
    town.pass_time(601.0)
    await leader.tick()

    assert published == 1
    rounds = await leader.rounds(T)
    assert rounds[0].phase == "closed"
    await leader.stop()
    await other.stop()


async def test_a_step_of_a_release_that_measured_nothing_is_made_again_and_checked(town: Town) -> None:
    await held_round(town)
    record = await town.store.rounds.get(FIRST)
    assert record is not None
    unmeasured = replace(record.round, phase=Phase.STEPPED, detail="", figures_json="")
    town.store.rounds._rows.rounds[FIRST] = replace(record, round=unmeasured)  # type: ignore[attr-defined]
    town.coordinator = town.another_coordinator()

    await town.coordinator.start()
    await town.coordinator.tick()

    view = await town.coordinator.round(FIRST)
    assert (view.phase, await released(town)) == ("held", 0)
    assert view.figures is not None


@pytest.mark.parametrize(
    ("reports", "detail"),
    [
        (0, "The task was cancelled by an operator."),
        (4, "The task was cancelled by an operator. What the round had counted was discarded."),
    ],
)
async def test_a_task_that_is_cancelled_while_it_collects_says_what_it_gives_up(
    town: Town, reports: int, detail: str
) -> None:
    await town.task(round="goal = 8")
    for one in (await cohort(town, 4))[:reports]:
        await send(town, one)

    await town.coordinator.cancel_task(T)

    view = await town.coordinator.round(FIRST)
    assert (view.phase, view.counted, view.detail) == ("cancelled", reports, detail)
