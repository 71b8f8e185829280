"""Back to an earlier version: a new one with its weights, and what lies between is withdrawn."""

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.coordinator.diverging_task import ABSURD, FIRST, T, cohort, held_round, play, refusal, send
from tests.unit.coordinator.personalize_task import open_task
from tests.unit.coordinator.town import LAYOUT, POPULATION, Town, constant, report

from keyflock_compression import apply_weights_delta, decode_weights
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import (
    ModelWeights,
    Offer,
    OfferAction,
    Receipt,
    Refusal,
    RefusalReason,
)
from keyflock_server.protocol.operator import RollbackOrder
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.storage.blob_identity import MARKER_KEY
from keyflock_server.storage.records import RoundRecord

pytestmark = pytest.mark.fault("D9")

MOMENTUM = 'name = "fedavgm"'
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'


def back_to(version: int) -> RollbackOrder:
    return RollbackOrder(to=version, reason="it got worse")


async def roll_back(town: Town, to: int) -> None:
    await town.coordinator.roll_back(POPULATION, back_to(to))
    await town.coordinator.tick()


async def blob_keys(town: Town) -> set[str]:
    return {blob.key async for blob in town.blobs.list_blobs()} - {MARKER_KEY}


async def test_the_newest_has_the_earlier_weights_and_those_between_are_withdrawn(town: Town) -> None:
    await town.task()
    await play(town)
    await play(town)

    view = await town.coordinator.roll_back(POPULATION, back_to(1))

    assert view.model_version == 3
    assert (await town.coordinator.release(POPULATION)).model_version == 3
    np.testing.assert_array_equal(await town.model(3), await town.model(1))
    version = await town.store.populations.version(POPULATION, ModelVersion(3))
    assert version is not None
    assert (version.parent, version.round_id) == (1, None)
    assert version.note == "Rolled back to 1: it got worse"


async def test_a_withdrawn_version_is_no_download_no_delta_and_no_release(town: Town) -> None:
    await town.task()
    await play(town)
    await roll_back(town, 0)
    coordinator = town.coordinator

    answers = [
        await refusal(coordinator.model(POPULATION, 1)),
        await refusal(coordinator.released_model(POPULATION, 1)),
        await refusal(coordinator.model_delta(POPULATION, 1, ModelWeights.TRAINING, [b"x"])),
    ]

    assert answers == [ProblemCode.MODEL_WITHDRAWN] * 3
    assert await refusal(coordinator.model(POPULATION, 9)) is ProblemCode.MODEL_UNKNOWN


async def test_a_phone_with_a_withdrawn_version_gets_the_newest_by_difference(town: Town) -> None:
    await town.coordinator.stop()
    town = Town()
    await town.coordinator.start()
    await town.found(np.linspace(-1.0, 1.0, LAYOUT.size, dtype=np.float32))
    await town.task()
    spot = constant(0.0)
    spot[5] = 0.5
    for one in await cohort(town):
        with contextlib.suppress(Refused):  # it waits for the others of its batch
            await town.coordinator.report(one, report(spot, of=one))
    await town.coordinator.tick()
    has = await town.coordinator.model(POPULATION, 1)
    await roll_back(town, 0)

    delta = await town.coordinator.model_delta(POPULATION, 2, ModelWeights.TRAINING, [has.digest])

    if delta is not None:  # so small a model may be smaller whole
        made = decode_weights(apply_weights_delta(delta.body, has.body), LAYOUT)
        np.testing.assert_array_equal(made, await town.model(0))
    await town.coordinator.stop()


async def test_the_optimiser_begins_anew(town: Town) -> None:
    await town.task(optimizer=MOMENTUM)
    await play(town)
    await play(town)
    await roll_back(town, 0)

    await play(town)

    # With the momentum of the two rounds before, it would be -2.71.
    np.testing.assert_allclose(await town.model(4), constant(-1.0), rtol=1e-2)


async def test_the_average_begins_anew_and_an_earlier_average_is_served_again(town: Town) -> None:
    await town.task(release="ema_decay = 0.5")
    await play(town)
    served = await town.coordinator.released_model(POPULATION, 1)
    await play(town)
    await roll_back(town, 1)

    release = await town.coordinator.release(POPULATION)
    again = await town.coordinator.released_model(POPULATION, 3)
    await play(town)
    after = decode_weights((await town.coordinator.released_model(POPULATION, 4)).body, LAYOUT)

    assert (release.weights, release.model_digest) == (ModelWeights.RELEASED, served.digest)
    assert again.body == served.body
    # Of -1, which was rolled back to, and -2: (-1/2 - 2) / (1/2 + 1).
    np.testing.assert_allclose(after, constant(-2.5 / 1.5), rtol=1e-2)


async def test_nothing_is_left_behind_and_no_two_versions_share_a_blob(town: Town) -> None:
    await town.task(optimizer=MOMENTUM, release="ema_decay = 0.5")
    await play(town)
    await play(town)

    await roll_back(town, 1)

    versions = await town.store.populations.versions()
    keys = [key for version in versions for key in version.blob_keys]
    assert len(keys) == len(set(keys))
    assert await blob_keys(town) == set(keys)


@pytest.mark.parametrize("reports", [0, 3])
async def test_a_round_that_collects_is_given_up_on_the_record(town: Town, reports: int) -> None:
    await town.task(round="goal = 8\nmin_flush_clients = 1\nunsafe_single_flush = true")
    first_cohort = await cohort(town, 8)
    for one in first_cohort:
        await send(town, one)
    await town.coordinator.tick()
    claims = await cohort(town, 4)
    for one in claims[:reports]:
        await send(town, one)

    await roll_back(town, 0)
    late = await send(town, claims[3])
    offered = await town.coordinator.offer(claims[3], Offer(model_version=ModelVersion(1), size_bytes=9))
    again = await send(town, claims[0]) if reports else None

    first, second, third = await town.coordinator.rounds(T)
    assert (first.phase, second.phase, third.phase) == ("closed", "discarded", "collecting")
    assert second.detail == (
        "The population was rolled back to version 0 by an operator: it got worse. "
        f"The sum of {reports} reports was discarded."
    )
    assert third.model_version == 2
    assert late is ProblemCode.ROUND_GONE
    assert offered.action is OfferAction.DROP
    assert again is None or (isinstance(again, Receipt) and again.duplicate)
    assert not any(device.strikes for device in (await town.coordinator.devices(POPULATION)).devices)


async def test_a_buffer_counts_no_report_from_a_version_that_was_withdrawn(town: Town) -> None:
    await town.task(round=BUFFER)
    old = await cohort(town, 1)
    await play(town)
    withdrawn = await cohort(town, 2)
    again = await town.enrol()
    mine = await town.assigned(again)
    await roll_back(town, 0)

    answers = [await send(town, one) for one in withdrawn]
    offered = await town.coordinator.offer(withdrawn[0], Offer(model_version=ModelVersion(1), size_bytes=9))
    anew = await town.assigned(again)
    fresh = await cohort(town, 2)
    for one in (*old, anew, *fresh):
        await send(town, one)
    await town.coordinator.tick()

    assert answers == [ProblemCode.ROUND_GONE] * 2
    assert offered.action is OfferAction.DROP
    assert (mine.model_version, anew.model_version) == (1, 2)
    closed = next(one for one in await town.coordinator.rounds(T) if one.result_version == 3)
    assert closed.counted == 4
    assert not any(device.strikes for device in (await town.coordinator.devices(POPULATION)).devices)


async def test_what_waits_for_the_buffer_after_a_rollback_is_not_counted_in_it(town: Town) -> None:
    await town.task(round=BUFFER)
    await play(town)
    claims = await cohort(town, 5)
    for one in claims:
        await send(town, one)
    await town.coordinator.pause_task(T)
    await town.coordinator.tick()  # the buffer closes, and the fifth waits for the next

    await roll_back(town, 0)
    await town.coordinator.resume_task(T)
    await town.coordinator.tick()
    fresh = await cohort(town, 3)
    for one in fresh:
        await send(town, one)
    await town.coordinator.tick()

    assert await send(town, claims[4]) is ProblemCode.ROUND_GONE
    last = (await town.coordinator.rounds(T))[-1]
    assert (last.phase, last.model_version, last.counted) == ("collecting", 3, 0)


async def test_what_waits_in_another_process_when_a_population_is_rolled_back_is_not_counted(
    town: Town,
) -> None:
    here, there = (town.another_coordinator(name) for name in ("a", "b"))
    town.coordinator = here
    for replica in (here, there):
        await replica.start()
    await town.task(round=BUFFER)
    await play(town)
    withdrawn = await cohort(town, 1)
    await there.tick()
    town.coordinator = there
    waiting = await send(town, withdrawn[0])
    town.coordinator = here

    await roll_back(town, 0)  # and the next buffer is open before the other process looks
    await there.tick()
    town.coordinator = there
    fresh = await cohort(town, 3)
    for one in fresh:
        await send(town, one)
    again = await send(town, withdrawn[0])

    assert waiting is ProblemCode.REPORT_PENDING
    assert again is ProblemCode.ROUND_GONE
    assert (await there.rounds(T))[-1].counted == 0
    for replica in (here, there):
        await replica.stop()


async def test_no_report_slips_in_while_a_buffer_is_taken_up(town: Town) -> None:
    await town.task(round=BUFFER)
    await play(town)
    (mine,) = await cohort(town, 1)
    await town.coordinator.pause_task(T)
    await roll_back(town, 0)
    withdrawn, answers = town.store.populations.withdrawn, list[Any]()

    async def slow(name: PopulationName) -> frozenset[ModelVersion]:
        answers.append(await send(town, mine))
        return await withdrawn(name)

    town.store.populations.withdrawn = slow  # type: ignore[method-assign]
    await town.coordinator.resume_task(T)
    await town.coordinator.tick()

    assert answers[0] is ProblemCode.ROUND_GONE
    assert await send(town, mine) is ProblemCode.ROUND_GONE


async def test_a_withdrawn_version_keeps_no_place_of_an_asynchronous_task(town: Town) -> None:
    await town.task(round=BUFFER)
    await play(town)
    await cohort(town, 12)

    await roll_back(town, 0)
    await town.coordinator.tick()

    assert [one.model_version for one in await cohort(town, 12)] == [2] * 12


async def test_a_held_round_is_given_up_with_the_reason_that_held_it(town: Town) -> None:
    await town.task("u", round="goal = 4\nmax_rounds = 1")
    await play(town)
    held = await held_round(town)

    await roll_back(town, 0)

    view = await town.coordinator.round(FIRST)
    assert (view.phase, view.counted) == ("discarded", 4)
    assert view.detail.startswith(held.detail)
    assert view.detail.endswith("it got worse. The sum of 4 reports was discarded.")
    assert (await town.coordinator.task(T)).held_round is None


async def test_a_personalize_round_on_a_withdrawn_version_is_given_up_and_the_next_is_on_the_newest(
    town: Town,
) -> None:
    await town.task(round="goal = 4\nmax_rounds = 1")
    await play(town)
    await open_task(town)

    await roll_back(town, 0)

    phases = [
        (record.round.phase, record.round.base_version)
        for record in await town.store.rounds.of_task(TaskName("p"))
    ]
    assert phases == [("discarded", 1), ("collecting", 2)]


async def test_rolling_back_twice_and_going_on_from_there_keeps_numbering(town: Town) -> None:
    await town.task()
    await play(town)
    await roll_back(town, 0)
    await play(town)
    await roll_back(town, 2)
    await play(town)

    versions = await town.store.populations.versions()
    assert [(one.version, one.parent) for one in versions] == [
        *((0, None), (1, 0), (2, 0), (3, 2), (4, 2), (5, 4)),
    ]
    assert [one.version for one in versions if one.withdrawn_at is not None] == [1, 3]
    np.testing.assert_allclose(await town.model(5), constant(-1.0), rtol=1e-2)


@pytest.mark.parametrize(
    ("to", "code"),
    [(2, ProblemCode.CONFLICT), (1, ProblemCode.CONFLICT), (7, ProblemCode.MODEL_UNKNOWN)],
    ids=["the newest itself", "withdrawn", "unknown"],
)
async def test_a_version_that_cannot_be_gone_back_to_is_refused(
    town: Town, to: int, code: ProblemCode
) -> None:
    await town.task()
    await play(town)
    await roll_back(town, 0)

    assert await refusal(town.coordinator.roll_back(POPULATION, back_to(to))) is code
    nowhere = PopulationName("xx")
    assert await refusal(town.coordinator.roll_back(nowhere, back_to(0))) is ProblemCode.POPULATION_UNKNOWN
    assert (await town.coordinator.release(POPULATION)).model_version == 2


@pytest.mark.parametrize("damage", ["lost", "altered"])
@pytest.mark.parametrize("blob", ["checkpoint", "download"])
async def test_a_version_whose_blobs_are_gone_is_refused_and_nothing_is_changed(
    town: Town, blob: str, damage: str
) -> None:
    await town.task()
    await play(town)
    version = await town.store.populations.version(POPULATION, ModelVersion(0))
    assert version is not None
    key = version.checkpoint_key if blob == "checkpoint" else version.download_key
    await town.blobs.delete(key)
    if damage == "altered":
        await town.blobs.put(key, b"something else")
    before = await blob_keys(town)

    refused = await refusal(town.coordinator.roll_back(POPULATION, back_to(0)))

    assert refused is ProblemCode.CONFLICT
    assert await blob_keys(town) == before
    assert (await town.coordinator.release(POPULATION)).model_version == 1
    assert (await town.coordinator.rounds(T))[-1].phase == "collecting"


async def test_a_round_that_opened_while_its_version_was_withdrawn_ends_when_a_phone_finds_it(
    town: Town,
) -> None:
    await town.task()
    await play(town)
    await town.coordinator.pause_task(T)
    await roll_back(town, 0)
    stale = await _opened_on_a_withdrawn_version(town)

    answer = await town.check_in(await town.enrol())
    await town.coordinator.tick()
    after = await town.check_in(await town.enrol())

    record = await town.store.rounds.get(stale.id)
    assert record is not None
    assert record.round.phase == "discarded"
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.ROUND_FULL
    assert not isinstance(after, Refusal)


async def test_learned_lengths_forget_the_rounds_that_were_taken_back(town: Town) -> None:
    await town.task(aggregation="clip_norm_ratio = 0\nmax_norm_ratio = 0")
    await play(town, 1.0)
    await play(town, 4.0)
    await roll_back(town, 1)

    await play(town, 6.0)

    assert (await town.coordinator.rounds(T))[-1].phase == "held"


async def test_absurd_steps_are_undone_and_a_sane_task_learns_again(town: Town) -> None:
    await town.task("wild", round="goal = 4\nmax_rounds = 1", optimizer=ABSURD, checks="max_step_ratio = 0")
    await play(town)
    await roll_back(town, 0)

    await town.task()
    await play(town)

    np.testing.assert_allclose(await town.model(3), constant(-1.0), rtol=1e-2)


async def _opened_on_a_withdrawn_version(town: Town) -> Round:
    """What a process may add that read the newest version just before it was withdrawn."""
    (discarded,) = [one for one in await town.store.rounds.of_task(T) if one.round.phase == "discarded"]
    stale = replace(
        discarded.round,
        id=RoundId("t-3"),
        sequence=3,
        phase=Phase.COLLECTING,
        detail="",
        closed_at=None,
    )
    await town.store.rounds.add(RoundRecord(round=stale))
    await town.coordinator.resume_task(T)
    await town.coordinator.tick()
    return stale


async def test_a_version_that_is_about_to_be_published_when_another_process_rolls_back_is_not(
    town: Town,
) -> None:
    await town.task(optimizer=MOMENTUM)
    await play(town)
    claims = await cohort(town)
    other, publish = town.another_coordinator(), town.store.rounds.publish

    async def late(*arguments: Any) -> RoundRecord:  # noqa: ANN401 - whatever publish takes
        town.store.rounds.publish = publish  # type: ignore[method-assign]
        await other.roll_back(POPULATION, back_to(0))
        return await publish(*arguments)

    town.store.rounds.publish = late  # type: ignore[assignment, method-assign]
    for one in claims:
        await send(town, one)
    await town.coordinator.tick()
    await town.coordinator.tick()

    phases = [one.phase for one in await town.coordinator.rounds(T)]
    assert phases == ["closed", "discarded", "collecting"]
    assert (await town.coordinator.release(POPULATION)).model_version == 2
    np.testing.assert_array_equal(await town.model(2), constant(0.0))
    assert [one.optimizer_state_key for one in await town.store.tasks.all()] == [None]
