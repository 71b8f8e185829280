"""Keyboards serve the versions' average, phones train from the newest; both are told which is which."""

import contextlib
import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator import evaluate_task
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.personalize_task import check_in, open_task
from tests.unit.coordinator.test_crash_between_steps import ProcessKilled, crash_after, revive

from keyflock_compression import decode_weights
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Assignment
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, ProblemCode

#: More than the writes of one round.
WRITES_OF_A_ROUND = 30
AVERAGED = "ema_decay = 0.5"


async def run_round(harness: CoordinatorHarness, value: float) -> None:
    """Play one round of four phones that all report the same delta."""
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]
    await deliver(harness, claims, value)
    await harness.coordinator.tick()


async def deliver(harness: CoordinatorHarness, claims: list[AssignmentClaims], value: float) -> None:
    for one in claims:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(value), of=one))


async def blob_keys(harness: CoordinatorHarness) -> list[str]:
    return [blob.key async for blob in harness.blobs.list_blobs()]


async def served(harness: CoordinatorHarness, version: int) -> NDArray[np.float32]:
    download = await harness.coordinator.models.released_model(POPULATION, version)
    return decode_weights(download.body, LAYOUT)


async def test_keyboards_serve_the_average_and_training_goes_on_from_the_newest(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(release=AVERAGED)

    await run_round(harness, 1.0)
    await run_round(harness, 1.0)

    # The versions are 0, -1 and -2: (0/4 - 1/2 - 2) / (1/4 + 1/2 + 1).
    np.testing.assert_allclose(await served(harness, 2), constant(-2.5 / 1.75), rtol=1e-2)
    np.testing.assert_allclose(await served(harness, 1), constant(-1 / 1.5), rtol=1e-2)
    np.testing.assert_allclose(await harness.model(2), constant(-2.0), rtol=1e-2)


async def test_the_release_says_what_its_bytes_are(harness: CoordinatorHarness) -> None:
    await harness.task(release=AVERAGED)
    await run_round(harness, 1.0)

    release = await harness.coordinator.downlink.release(POPULATION)
    download = await harness.coordinator.models.released_model(POPULATION, release.model_version)

    assert (release.model_version, release.weights) == (1, ModelWeights.RELEASED)
    assert release.model_digest == download.digest == hashlib.sha256(download.body).digest()
    assert release.size_bytes == len(download.body)
    assert release.model_digest != (await harness.coordinator.models.training_model(POPULATION, 1)).digest


async def test_a_training_assignment_names_the_weights_that_were_stepped(harness: CoordinatorHarness) -> None:
    await harness.task(release=AVERAGED)
    await run_round(harness, 1.0)

    assignment = await harness.check_in(await harness.enrol())

    assert isinstance(assignment, Assignment)
    assert assignment.personalising is None
    assert assignment.model_digest == (await harness.coordinator.models.training_model(POPULATION, 1)).digest


async def test_without_an_average_both_are_the_same_bytes(harness: CoordinatorHarness) -> None:
    await harness.task()
    await run_round(harness, 1.0)

    release = await harness.coordinator.downlink.release(POPULATION)

    assert release.weights is ModelWeights.TRAINING
    assert release.model_digest == (await harness.coordinator.models.training_model(POPULATION, 1)).digest
    assert await harness.coordinator.models.released_model(
        POPULATION, 1
    ) == await harness.coordinator.models.training_model(POPULATION, 1)
    assert not [key for key in await blob_keys(harness) if key.startswith("averages/")]


async def test_only_the_newest_average_is_kept(harness: CoordinatorHarness) -> None:
    await harness.task(release=AVERAGED)
    for _ in range(3):
        await run_round(harness, 1.0)

    assert len([key for key in await blob_keys(harness) if key.startswith("averages/")]) == 1


async def test_a_task_without_an_average_ends_it_and_the_next_begins_one(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 1", release=AVERAGED)
    await run_round(harness, 1.0)
    await harness.coordinator.tick()
    await harness.task(name="plain", round="goal = 4\nmax_rounds = 1")
    await run_round(harness, 1.0)
    await harness.coordinator.tick()
    plain = await harness.coordinator.downlink.release(POPULATION)
    await harness.task(name="again", release=AVERAGED)
    await run_round(harness, 1.0)

    assert plain.weights is ModelWeights.TRAINING
    # The new one begins with version 2 and knows nothing of those before.
    np.testing.assert_allclose(await served(harness, 3), constant((-2.0 * 0.5 - 3.0) / 1.5), rtol=1e-2)


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_crash_at_any_write_lets_each_version_into_the_average_once(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await harness.task(round="goal = 4\nmax_rounds = 2", release=AVERAGED)
        await run_round(harness, 1.0)
        claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]

        crash_after(harness, writes, after_write=after_write)
        with contextlib.suppress(ProcessKilled):
            await deliver(harness, claims, 1.0)
        with contextlib.suppress(ProcessKilled):
            await harness.coordinator.tick()
        revive(harness)
        await harness.coordinator.start()
        await deliver(harness, claims, 1.0)
        await harness.coordinator.tick()

        np.testing.assert_allclose(await served(harness, 2), constant(-2.5 / 1.75), rtol=1e-2)
        release = await harness.coordinator.downlink.release(POPULATION)
        assert (release.model_version, release.weights) == (2, ModelWeights.RELEASED), f"{writes} writes"
        # What a crash left behind is collected at the next start.
        again = harness.another_coordinator()
        await again.start()
        keys = await blob_keys(harness)
        assert len([key for key in keys if key.startswith("averages/")]) == 1
        assert len([key for key in keys if key.endswith("/released")]) == 2
        await again.stop()
        await harness.coordinator.stop()


async def test_a_round_that_personalises_has_its_phones_fit_the_weights_that_keyboards_serve(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 1", release=AVERAGED)
    await run_round(harness, 1.0)
    await open_task(harness)

    assignment = await check_in(harness, await harness.enrol())

    assert isinstance(assignment, Assignment)
    release = await harness.coordinator.downlink.release(POPULATION)
    assert assignment.model_version == 1
    assert assignment.personalising is not None
    assert assignment.personalising.weights is ModelWeights.RELEASED
    assert assignment.model_digest == release.model_digest


async def test_tasks_that_step_one_model_agree_on_what_keyboards_serve(harness: CoordinatorHarness) -> None:
    await harness.task(release=AVERAGED)

    with pytest.raises(ApiError) as refused:
        await harness.task(name="other", release="ema_decay = 0.9")
    await harness.task(name="agrees", release=AVERAGED)

    assert refused.value.code is ProblemCode.CONFLICT
    assert "release.ema_decay" in refused.value.detail


async def test_an_evaluation_scores_the_weights_that_keyboards_serve(harness: CoordinatorHarness) -> None:
    await harness.task(release=AVERAGED)
    for _ in range(2):
        await run_round(harness, 1.0)
    await evaluate_task.open_evaluation(harness, evaluating="candidate = 2\nbaseline = 1")
    harness.pass_time(300.0)

    answer = None
    while not (isinstance(answer, Assignment) and answer.evaluating is not None):
        answer = await evaluate_task.check_in(harness, await harness.enrol())

    plan = answer.evaluating
    candidate, baseline = [await harness.coordinator.models.version(POPULATION, one) for one in (2, 1)]
    assert (plan.weights, plan.baseline_weights) == (ModelWeights.RELEASED, ModelWeights.RELEASED)
    assert (answer.model_digest, plan.baseline_digest) == (
        candidate.released_digest,
        baseline.released_digest,
    )


async def test_a_task_that_trains_nothing_may_stand_beside_an_average(harness: CoordinatorHarness) -> None:
    await harness.task(release=AVERAGED)

    await open_task(harness)

    assert (await harness.coordinator.tasks.get("p")).state == "active"
