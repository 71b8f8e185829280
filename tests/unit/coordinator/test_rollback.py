"""Back to an earlier version: a new one with its weights, and what lies between is withdrawn."""

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import ABSURD, FIRST, T, cohort, held_round, play, refusal, send
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_devices, listed_rounds
from tests.unit.coordinator.personalize_task import open_task

from keyflock_compression import apply_weights_delta, decode_weights
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import Offer, OfferAction, Receipt, Refusal, RefusalReason
from keyflock_server.protocol.operator.populations import RollbackOrder
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.storage.blob_identity import MARKER_KEY
from keyflock_server.storage.records import RoundRecord

pytestmark = pytest.mark.fault("D9")

MOMENTUM = 'name = "fedavgm"'
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0'


def back_to(version: int) -> RollbackOrder:
    return RollbackOrder(to=version, reason="it got worse")


async def roll_back(harness: CoordinatorHarness, to: int) -> None:
    await harness.coordinator.populations.roll_back(POPULATION, back_to(to), audit=AUDIT)
    await harness.coordinator.tick()


async def blob_keys(harness: CoordinatorHarness) -> set[str]:
    return {blob.key async for blob in harness.blobs.list_blobs()} - {MARKER_KEY}


async def test_the_newest_has_the_earlier_weights_and_those_between_are_withdrawn(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await play(harness)
    await play(harness)

    view = await harness.coordinator.populations.roll_back(POPULATION, back_to(1), audit=AUDIT)

    assert view.model_version == 3
    assert (await harness.coordinator.downlink.release(POPULATION)).model_version == 3
    np.testing.assert_array_equal(await harness.model(3), await harness.model(1))
    version = await harness.store.populations.version(POPULATION, ModelVersion(3))
    assert version is not None
    assert (version.parent, version.round_id) == (1, None)
    assert version.note == "Rolled back to 1: it got worse"


async def test_a_version_that_is_withdrawn_while_its_row_is_read_is_served_to_nobody_else(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task()
    await play(harness)
    await play(harness)
    read, populations = harness.store.populations.version, harness.store.populations

    async def read_slowly(name: PopulationName, version: ModelVersion) -> VersionRecord | None:
        row = await read(name, version)
        monkeypatch.undo()
        await harness.coordinator.populations.roll_back(POPULATION, back_to(1), audit=AUDIT)
        return row

    harness.coordinator.models.forget_rows()
    monkeypatch.setattr(populations, "version", read_slowly)
    await harness.coordinator.models.training_model(POPULATION, 2)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.models.training_model(POPULATION, 2)
    assert refused.value.code is ProblemCode.MODEL_WITHDRAWN


async def test_a_withdrawn_version_is_no_download_no_delta_and_no_release(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await play(harness)
    await roll_back(harness, 0)
    coordinator = harness.coordinator

    answers = [
        await refusal(coordinator.models.training_model(POPULATION, 1)),
        await refusal(coordinator.models.released_model(POPULATION, 1)),
        await refusal(coordinator.downlink.delta(POPULATION, 1, ModelWeights.TRAINING, [b"x"])),
    ]

    assert answers == [ProblemCode.MODEL_WITHDRAWN] * 3
    assert await refusal(coordinator.models.training_model(POPULATION, 9)) is ProblemCode.MODEL_UNKNOWN


async def test_a_phone_with_a_withdrawn_version_gets_the_newest_by_difference(
    harness: CoordinatorHarness,
) -> None:
    await harness.coordinator.stop()
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population(np.linspace(-1.0, 1.0, LAYOUT.size, dtype=np.float32))
    await harness.task()
    spot = constant(0.0)
    spot[5] = 0.5
    for one in await cohort(harness):
        with contextlib.suppress(ApiError):  # it waits for the others of its batch
            await harness.coordinator.reports.report(one, report(spot, of=one))
    await harness.coordinator.tick()
    has = await harness.coordinator.models.training_model(POPULATION, 1)
    await roll_back(harness, 0)

    delta = await harness.coordinator.downlink.delta(POPULATION, 2, ModelWeights.TRAINING, [has.digest])

    if delta is not None:  # so small a model may be smaller whole
        made = decode_weights(apply_weights_delta(delta.body, has.body), LAYOUT)
        np.testing.assert_array_equal(made, await harness.model(0))
    await harness.coordinator.stop()


async def test_the_optimiser_begins_anew(harness: CoordinatorHarness) -> None:
    await harness.task(optimizer=MOMENTUM)
    await play(harness)
    await play(harness)
    await roll_back(harness, 0)

    await play(harness)

    # With the momentum of the two rounds before, it would be -2.71.
    np.testing.assert_allclose(await harness.model(4), constant(-1.0), rtol=1e-2)


async def test_the_average_begins_anew_and_an_earlier_average_is_served_again(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(release="ema_decay = 0.5")
    await play(harness)
    served = await harness.coordinator.models.released_model(POPULATION, 1)
    await play(harness)
    await roll_back(harness, 1)

    release = await harness.coordinator.downlink.release(POPULATION)
    again = await harness.coordinator.models.released_model(POPULATION, 3)
    await play(harness)
    after = decode_weights((await harness.coordinator.models.released_model(POPULATION, 4)).body, LAYOUT)

    assert (release.weights, release.model_digest) == (ModelWeights.RELEASED, served.digest)
    assert again.body == served.body
    # Of -1, which was rolled back to, and -2: (-1/2 - 2) / (1/2 + 1).
    np.testing.assert_allclose(after, constant(-2.5 / 1.5), rtol=1e-2)


async def test_nothing_is_left_behind_and_no_two_versions_share_a_blob(harness: CoordinatorHarness) -> None:
    await harness.task(optimizer=MOMENTUM, release="ema_decay = 0.5")
    await play(harness)
    await play(harness)

    await roll_back(harness, 1)

    versions = await harness.store.populations.versions()
    keys = [key for version in versions for key in version.blob_keys]
    assert len(keys) == len(set(keys))
    assert await blob_keys(harness) == set(keys)


@pytest.mark.parametrize("reports", [0, 3])
async def test_a_round_that_collects_is_given_up_on_the_record(
    harness: CoordinatorHarness, reports: int
) -> None:
    await harness.task(round="goal = 8\nmin_flush_clients = 1\nunsafe_single_flush = true")
    first_cohort = await cohort(harness, 8)
    for one in first_cohort:
        await send(harness, one)
    await harness.coordinator.tick()
    claims = await cohort(harness, 4)
    for one in claims[:reports]:
        await send(harness, one)

    await roll_back(harness, 0)
    late = await send(harness, claims[3])
    offered = await harness.coordinator.reports.offer(
        claims[3], Offer(model_version=ModelVersion(1), size_bytes=9)
    )
    again = await send(harness, claims[0]) if reports else None

    first, second, third = await listed_rounds(harness.coordinator, T)
    assert (first.phase, second.phase, third.phase) == ("closed", "discarded", "collecting")
    assert second.detail == (
        "The population was rolled back to version 0 by an operator: it got worse. "
        f"The sum of {reports} reports was discarded."
    )
    assert third.model_version == 2
    assert late is ProblemCode.ROUND_GONE
    assert offered.action is OfferAction.DROP
    assert again is None or (isinstance(again, Receipt) and again.duplicate)
    assert not any(device.strikes for device in (await listed_devices(harness.coordinator, POPULATION)))


async def test_a_buffer_counts_no_report_from_a_version_that_was_withdrawn(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    old = await cohort(harness, 1)
    await play(harness)
    withdrawn = await cohort(harness, 2)
    again = await harness.enrol()
    mine = await harness.assigned(again)
    await roll_back(harness, 0)

    answers = [await send(harness, one) for one in withdrawn]
    offered = await harness.coordinator.reports.offer(
        withdrawn[0], Offer(model_version=ModelVersion(1), size_bytes=9)
    )
    anew = await harness.assigned(again)
    fresh = await cohort(harness, 2)
    for one in (*old, anew, *fresh):
        await send(harness, one)
    await harness.coordinator.tick()

    assert answers == [ProblemCode.ROUND_GONE] * 2
    assert offered.action is OfferAction.DROP
    assert (mine.model_version, anew.model_version) == (1, 2)
    closed = next(one for one in await listed_rounds(harness.coordinator, T) if one.result_version == 3)
    assert closed.counted == 4
    assert not any(device.strikes for device in (await listed_devices(harness.coordinator, POPULATION)))


async def test_what_waits_for_the_buffer_after_a_rollback_is_not_counted_in_it(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    await play(harness)
    claims = await cohort(harness, 5)
    for one in claims:
        await send(harness, one)
    await harness.coordinator.tasks.pause(T, audit=AUDIT)
    await harness.coordinator.tick()  # the buffer closes, and the fifth waits for the next

    await roll_back(harness, 0)
    await harness.coordinator.tasks.resume(T, audit=AUDIT)
    await harness.coordinator.tick()
    fresh = await cohort(harness, 3)
    for one in fresh:
        await send(harness, one)
    await harness.coordinator.tick()

    assert await send(harness, claims[4]) is ProblemCode.ROUND_GONE
    last = (await listed_rounds(harness.coordinator, T))[-1]
    assert (last.phase, last.model_version, last.counted) == ("collecting", 3, 0)


async def test_what_waits_in_another_process_when_a_population_is_rolled_back_is_not_counted(
    harness: CoordinatorHarness,
) -> None:
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for replica in (here, there):
        await replica.start()
    await harness.task(round=BUFFER)
    await play(harness)
    withdrawn = await cohort(harness, 1)
    await there.tick()
    harness.coordinator = there
    waiting = await send(harness, withdrawn[0])
    harness.coordinator = here

    await roll_back(harness, 0)  # and the next buffer is open before the other process looks
    await there.tick()
    harness.coordinator = there
    fresh = await cohort(harness, 3)
    for one in fresh:
        await send(harness, one)
    again = await send(harness, withdrawn[0])

    assert waiting is ProblemCode.REPORT_PENDING
    assert again is ProblemCode.ROUND_GONE
    assert (await listed_rounds(there, T))[-1].counted == 0
    for replica in (here, there):
        await replica.stop()


async def test_no_report_slips_in_while_a_buffer_is_taken_up(harness: CoordinatorHarness) -> None:
    await harness.task(round=BUFFER)
    await play(harness)
    (mine,) = await cohort(harness, 1)
    await harness.coordinator.tasks.pause(T, audit=AUDIT)
    await roll_back(harness, 0)
    withdrawn, answers = harness.store.populations.withdrawn, list[Any]()

    async def slow(name: PopulationName) -> frozenset[ModelVersion]:
        answers.append(await send(harness, mine))
        return await withdrawn(name)

    harness.store.populations.withdrawn = slow  # type: ignore[method-assign]
    await harness.coordinator.tasks.resume(T, audit=AUDIT)
    await harness.coordinator.tick()

    assert answers[0] is ProblemCode.ROUND_GONE
    assert await send(harness, mine) is ProblemCode.ROUND_GONE


async def test_a_withdrawn_version_keeps_no_place_of_an_asynchronous_task(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=BUFFER)
    await play(harness)
    await cohort(harness, 12)

    await roll_back(harness, 0)
    await harness.coordinator.tick()

    assert [one.model_version for one in await cohort(harness, 12)] == [2] * 12


async def test_a_held_round_is_given_up_with_the_reason_that_held_it(harness: CoordinatorHarness) -> None:
    await harness.task("u", round="goal = 4\nmax_rounds = 1")
    await play(harness)
    held = await held_round(harness)

    await roll_back(harness, 0)

    view = await harness.coordinator.tasks.round(FIRST)
    assert (view.phase, view.counted) == ("discarded", 4)
    assert view.detail.startswith(held.detail)
    assert view.detail.endswith("it got worse. The sum of 4 reports was discarded.")
    assert (await harness.coordinator.tasks.get(T)).held_round is None


async def test_a_personalize_round_on_a_withdrawn_version_is_given_up_and_the_next_is_on_the_newest(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 1")
    await play(harness)
    await open_task(harness)

    await roll_back(harness, 0)

    phases = [
        (record.round.phase, record.round.base_version)
        for record in await harness.store.rounds.list_by_task(TaskName("p"))
    ]
    assert phases == [("discarded", 1), ("collecting", 2)]


async def test_rolling_back_twice_and_going_on_from_there_keeps_numbering(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await play(harness)
    await roll_back(harness, 0)
    await play(harness)
    await roll_back(harness, 2)
    await play(harness)

    versions = await harness.store.populations.versions()
    assert [(one.version, one.parent) for one in versions] == [
        *((0, None), (1, 0), (2, 0), (3, 2), (4, 2), (5, 4)),
    ]
    assert [one.version for one in versions if one.withdrawn_at is not None] == [1, 3]
    np.testing.assert_allclose(await harness.model(5), constant(-1.0), rtol=1e-2)


@pytest.mark.parametrize(
    ("to", "code"),
    [(2, ProblemCode.CONFLICT), (1, ProblemCode.CONFLICT), (7, ProblemCode.MODEL_UNKNOWN)],
    ids=["the newest itself", "withdrawn", "unknown"],
)
async def test_a_version_that_cannot_be_gone_back_to_is_refused(
    harness: CoordinatorHarness, to: int, code: ProblemCode
) -> None:
    await harness.task()
    await play(harness)
    await roll_back(harness, 0)

    assert (
        await refusal(harness.coordinator.populations.roll_back(POPULATION, back_to(to), audit=AUDIT)) is code
    )
    nowhere = PopulationName("xx")
    assert (
        await refusal(harness.coordinator.populations.roll_back(nowhere, back_to(0), audit=AUDIT))
        is ProblemCode.POPULATION_UNKNOWN
    )
    assert (await harness.coordinator.downlink.release(POPULATION)).model_version == 2


@pytest.mark.parametrize("damage", ["lost", "altered"])
@pytest.mark.parametrize("blob", ["checkpoint", "download"])
async def test_a_version_whose_blobs_are_gone_is_refused_and_nothing_is_changed(
    harness: CoordinatorHarness, blob: str, damage: str
) -> None:
    await harness.task()
    await play(harness)
    version = await harness.store.populations.version(POPULATION, ModelVersion(0))
    assert version is not None
    key = version.checkpoint_key if blob == "checkpoint" else version.download_key
    await harness.blobs.delete(key)
    if damage == "altered":
        await harness.blobs.put(key, b"something else")
    before = await blob_keys(harness)

    refused = await refusal(harness.coordinator.populations.roll_back(POPULATION, back_to(0), audit=AUDIT))

    assert refused is ProblemCode.CONFLICT
    assert await blob_keys(harness) == before
    assert (await harness.coordinator.downlink.release(POPULATION)).model_version == 1
    assert (await listed_rounds(harness.coordinator, T))[-1].phase == "collecting"


async def test_a_round_that_opened_while_its_version_was_withdrawn_ends_when_a_phone_finds_it(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    await play(harness)
    await harness.coordinator.tasks.pause(T, audit=AUDIT)
    await roll_back(harness, 0)
    stale = await _opened_on_a_withdrawn_version(harness)

    answer = await harness.check_in(await harness.enrol())
    await harness.coordinator.tick()
    after = await harness.check_in(await harness.enrol())

    record = await harness.store.rounds.get(stale.id)
    assert record is not None
    assert record.round.phase == "discarded"
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.ROUND_FULL
    assert not isinstance(after, Refusal)


async def test_learned_lengths_forget_the_rounds_that_were_taken_back(harness: CoordinatorHarness) -> None:
    await harness.task(aggregation="clip_norm_ratio = 0\nmax_norm_ratio = 0")
    await play(harness, 1.0)
    await play(harness, 4.0)
    await roll_back(harness, 1)

    await play(harness, 6.0)

    assert (await listed_rounds(harness.coordinator, T))[-1].phase == "held"


async def test_absurd_steps_are_undone_and_a_sane_task_learns_again(harness: CoordinatorHarness) -> None:
    await harness.task(
        "wild", round="goal = 4\nmax_rounds = 1", optimizer=ABSURD, checks="max_step_ratio = 0"
    )
    await play(harness)
    await roll_back(harness, 0)

    await harness.task()
    await play(harness)

    np.testing.assert_allclose(await harness.model(3), constant(-1.0), rtol=1e-2)


async def _opened_on_a_withdrawn_version(harness: CoordinatorHarness) -> Round:
    """What a process may add that read the newest version just before it was withdrawn."""
    (discarded,) = [
        one for one in await harness.store.rounds.list_by_task(T) if one.round.phase == "discarded"
    ]
    stale = replace(
        discarded.round,
        id=RoundId("t-3"),
        sequence=3,
        phase=Phase.COLLECTING,
        detail="",
        closed_at=None,
    )
    await harness.store.rounds.add(RoundRecord(round=stale))
    await harness.coordinator.tasks.resume(T, audit=AUDIT)
    await harness.coordinator.tick()
    return stale


async def test_a_version_that_is_about_to_be_published_when_another_process_rolls_back_is_not(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(optimizer=MOMENTUM)
    await play(harness)
    claims = await cohort(harness)
    other, publish = harness.another_coordinator(), harness.store.rounds.publish

    async def late(*arguments: Any) -> RoundRecord:  # noqa: ANN401 - whatever publish takes
        harness.store.rounds.publish = publish  # type: ignore[method-assign]
        await other.populations.roll_back(POPULATION, back_to(0), audit=AUDIT)
        return await publish(*arguments)

    harness.store.rounds.publish = late  # type: ignore[assignment, method-assign]
    for one in claims:
        await send(harness, one)
    await harness.coordinator.tick()
    await harness.coordinator.tick()

    phases = [one.phase for one in await listed_rounds(harness.coordinator, T)]
    assert phases == ["closed", "discarded", "collecting"]
    assert (await harness.coordinator.downlink.release(POPULATION)).model_version == 2
    np.testing.assert_array_equal(await harness.model(2), constant(0.0))
    assert [one.optimizer_state_key for one in await harness.store.tasks.all()] == [None]
