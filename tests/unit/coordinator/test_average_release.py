"""Keyboards serve the versions' average, phones train from the newest; both are told which is which."""

import contextlib
import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.coordinator.personalize_task import check_in, open_task
from tests.unit.coordinator.test_crash_between_steps import ProcessKilled, make_dying, revive
from tests.unit.coordinator.town import LAYOUT, POPULATION, Town, constant, report

from keyflock_compression import decode_weights
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Assignment, ModelWeights
from keyflock_server.protocol.problems import ProblemCode, Refused

#: More than the writes of one round.
WRITES_OF_A_ROUND = 30
AVERAGED = "ema_decay = 0.5"


async def run_round(town: Town, value: float) -> None:
    """One round of four phones that all say the same."""
    claims = [await town.assigned(await town.enrol()) for _ in range(4)]
    await deliver(town, claims, value)
    await town.coordinator.tick()


async def deliver(town: Town, claims: list[AssignmentClaims], value: float) -> None:
    for one in claims:
        with contextlib.suppress(Refused):
            await town.coordinator.report(one, report(constant(value), of=one))


async def blob_keys(town: Town) -> list[str]:
    return [blob.key async for blob in town.blobs.list_blobs()]


async def served(town: Town, version: int) -> NDArray[np.float32]:
    download = await town.coordinator.released_model(POPULATION, version)
    return decode_weights(download.body, LAYOUT)


async def test_keyboards_serve_the_average_and_training_goes_on_from_the_newest(town: Town) -> None:
    await town.task(release=AVERAGED)

    await run_round(town, 1.0)
    await run_round(town, 1.0)

    # The versions are 0, -1 and -2: (0/4 - 1/2 - 2) / (1/4 + 1/2 + 1).
    np.testing.assert_allclose(await served(town, 2), constant(-2.5 / 1.75), rtol=1e-2)
    np.testing.assert_allclose(await served(town, 1), constant(-1 / 1.5), rtol=1e-2)
    np.testing.assert_allclose(await town.model(2), constant(-2.0), rtol=1e-2)


async def test_the_release_says_what_its_bytes_are(town: Town) -> None:
    await town.task(release=AVERAGED)
    await run_round(town, 1.0)

    release = await town.coordinator.release(POPULATION)
    download = await town.coordinator.released_model(POPULATION, release.model_version)

    assert (release.model_version, release.weights) == (1, ModelWeights.RELEASED)
    assert release.model_digest == download.digest == hashlib.sha256(download.body).digest()
    assert release.size_bytes == len(download.body)
    assert release.model_digest != (await town.coordinator.model(POPULATION, 1)).digest


async def test_a_training_assignment_names_the_weights_that_were_stepped(town: Town) -> None:
    await town.task(release=AVERAGED)
    await run_round(town, 1.0)

    assignment = await town.check_in(await town.enrol())

    assert isinstance(assignment, Assignment)
    assert assignment.personalising is None
    assert assignment.model_digest == (await town.coordinator.model(POPULATION, 1)).digest


async def test_without_an_average_both_are_the_same_bytes(town: Town) -> None:
    await town.task()
    await run_round(town, 1.0)

    release = await town.coordinator.release(POPULATION)

    assert release.weights is ModelWeights.TRAINING
    assert release.model_digest == (await town.coordinator.model(POPULATION, 1)).digest
    assert await town.coordinator.released_model(POPULATION, 1) == await town.coordinator.model(POPULATION, 1)
    assert not [key for key in await blob_keys(town) if key.startswith("averages/")]


async def test_only_the_newest_average_is_kept(town: Town) -> None:
    await town.task(release=AVERAGED)
    for _ in range(3):
        await run_round(town, 1.0)

    assert len([key for key in await blob_keys(town) if key.startswith("averages/")]) == 1


async def test_a_task_without_an_average_ends_it_and_the_next_begins_one(town: Town) -> None:
    await town.task(round="goal = 4\nmax_rounds = 1", release=AVERAGED)
    await run_round(town, 1.0)
    await town.coordinator.tick()
    await town.task(name="plain", round="goal = 4\nmax_rounds = 1")
    await run_round(town, 1.0)
    await town.coordinator.tick()
    plain = await town.coordinator.release(POPULATION)
    await town.task(name="again", release=AVERAGED)
    await run_round(town, 1.0)

    assert plain.weights is ModelWeights.TRAINING
    # The new one begins with version 2 and knows nothing of those before.
    np.testing.assert_allclose(await served(town, 3), constant((-2.0 * 0.5 - 3.0) / 1.5), rtol=1e-2)


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_crash_at_any_write_lets_each_version_into_the_average_once(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        town = Town()
        await town.coordinator.start()
        await town.found()
        await town.task(round="goal = 4\nmax_rounds = 2", release=AVERAGED)
        await run_round(town, 1.0)
        claims = [await town.assigned(await town.enrol()) for _ in range(4)]

        make_dying(town, writes, after_write=after_write)
        with contextlib.suppress(ProcessKilled):
            await deliver(town, claims, 1.0)
        with contextlib.suppress(ProcessKilled):
            await town.coordinator.tick()
        revive(town)
        await town.coordinator.start()
        await deliver(town, claims, 1.0)
        await town.coordinator.tick()

        np.testing.assert_allclose(await served(town, 2), constant(-2.5 / 1.75), rtol=1e-2)
        release = await town.coordinator.release(POPULATION)
        assert (release.model_version, release.weights) == (2, ModelWeights.RELEASED), f"{writes} writes"
        # What a crash left behind is collected at the next start.
        again = town.another_coordinator()
        await again.start()
        keys = await blob_keys(town)
        assert len([key for key in keys if key.startswith("averages/")]) == 1
        assert len([key for key in keys if key.endswith("/released")]) == 2
        await again.stop()
        await town.coordinator.stop()


async def test_a_round_that_personalises_has_its_phones_fit_the_weights_that_keyboards_serve(
    town: Town,
) -> None:
    await town.task(round="goal = 4\nmax_rounds = 1", release=AVERAGED)
    await run_round(town, 1.0)
    await open_task(town)

    assignment = await check_in(town, await town.enrol())

    assert isinstance(assignment, Assignment)
    release = await town.coordinator.release(POPULATION)
    assert assignment.model_version == 1
    assert assignment.personalising is not None
    assert assignment.personalising.weights is ModelWeights.RELEASED
    assert assignment.model_digest == release.model_digest


async def test_tasks_that_step_one_model_agree_on_what_keyboards_serve(town: Town) -> None:
    await town.task(release=AVERAGED)

    with pytest.raises(Refused) as refused:
        await town.task(name="other", release="ema_decay = 0.9")
    await town.task(name="agrees", release=AVERAGED)

    assert refused.value.code is ProblemCode.CONFLICT
    assert "release.ema_decay" in refused.value.detail
