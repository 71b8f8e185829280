"""No phone is given work whose model is larger than what it downloads."""

import contextlib

import msgspec
import numpy as np
import pytest
from tests.unit.coordinator import personalize_task
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, report

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.messages import Assignment, Capabilities, CheckIn, Refusal, RefusalReason
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError

pytestmark = pytest.mark.fault("F8")


async def check_in(
    harness: CoordinatorHarness, phone: DeviceIdentity, max_download_bytes: int | None
) -> Assignment | Refusal:
    can = Capabilities(tasks=("train", "personalize"))
    if max_download_bytes is not None:
        can = msgspec.structs.replace(can, max_download_bytes=max_download_bytes)
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10, capabilities=can)
    return await harness.coordinator.check_ins.check_in(phone, message)


async def download_bytes(harness: CoordinatorHarness, weights: ModelWeights = ModelWeights.TRAINING) -> int:
    """Return the length of the newest version's download, as a phone would get it."""
    models = harness.coordinator.models
    latest = (await models.population(POPULATION)).latest_version
    return len((await models.download_of(await models.version(POPULATION, latest), weights)).body)


async def fill_round(harness: CoordinatorHarness) -> None:
    """Let four phones report, so that the next version holds numbers that do not compress to nothing."""
    rng = np.random.default_rng(3)
    for _ in range(4):
        claims = await harness.assigned(await harness.enrol())
        delta = rng.standard_normal(LAYOUT.size).astype(np.float32)
        with contextlib.suppress(ApiError):  # the first three wait for the fourth
            await harness.coordinator.reports.report(claims, report(delta, of=claims))
    await harness.coordinator.tick()
    await harness.coordinator.tick()


async def test_a_phone_takes_a_model_as_large_as_it_says_and_none_that_is_larger(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    size = await download_bytes(harness)

    taken = await check_in(harness, await harness.enrol(), size)
    refused = await check_in(harness, await harness.enrol(), size - 1)
    nothing = await check_in(harness, await harness.enrol(), 0)
    silent = await check_in(harness, await harness.enrol(), None)

    assert isinstance(taken, Assignment)
    assert isinstance(silent, Assignment)
    assert isinstance(nothing, Refusal)
    assert isinstance(refused, Refusal)
    assert refused.reason is RefusalReason.NOT_ELIGIBLE
    assert refused.detail == f"The model has {size} bytes, and this device downloads at most {size - 1}."


async def test_a_phone_that_comes_back_with_a_smaller_budget_is_refused_until_it_has_a_larger_one(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    phone = await harness.enrol()
    before = await check_in(harness, phone, None)

    meanwhile = await check_in(harness, phone, 1)
    again = await check_in(harness, phone, None)

    assert isinstance(before, Assignment)
    assert isinstance(meanwhile, Refusal)
    assert meanwhile.reason is RefusalReason.NOT_ELIGIBLE
    assert isinstance(again, Assignment)
    assert again.id == before.id


async def test_the_next_rounds_model_is_measured_anew(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    of_zeros = await download_bytes(harness)
    await fill_round(harness)
    of_numbers = await download_bytes(harness)

    refused = await check_in(harness, await harness.enrol(), of_zeros)
    taken = await check_in(harness, await harness.enrol(), of_numbers)

    assert of_numbers > of_zeros
    assert isinstance(refused, Refusal)
    assert f"{of_numbers} bytes" in refused.detail
    assert isinstance(taken, Assignment)


async def test_a_personalize_task_counts_the_weights_that_keyboards_serve(
    harness: CoordinatorHarness,
) -> None:
    """The average of the versions is another download than the weights that rounds train from."""
    await harness.task(round="goal = 4\nover_selection = 0.0\nmax_rounds = 1", release="ema_decay = 0.5")
    await fill_round(harness)
    await personalize_task.open_task(harness)
    models = harness.coordinator.models
    record = await models.version(POPULATION, 1)
    training, released = (record.bytes_of(weights) for weights in ModelWeights)

    taken = await check_in(harness, await harness.enrol(), released)
    refused = await check_in(harness, await harness.enrol(), released - 1)

    assert (training, released) == (
        await download_bytes(harness, ModelWeights.TRAINING),
        await download_bytes(harness, ModelWeights.RELEASED),
    )
    assert record.released_digest not in (None, record.download_digest)
    assert isinstance(taken, Assignment)
    assert taken.personalising is not None
    assert isinstance(refused, Refusal)
    assert f"{released} bytes" in refused.detail
