"""The versions' average over restarts of the whole store: the same bytes as without any."""

import contextlib
import itertools
from pathlib import Path

import numpy as np
from tests.unit.coordinator.harness import LAYOUT, POPULATION, CoordinatorHarness, constant, report

from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError
from keyflock_server.releases.ema import WeightAverage
from keyflock_server.releases.model_version import package
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.sql.store import SqlStore

STEPS = (0.5, -1.25, 2.0, 0.125, -0.75)
DECAY = 0.9


def process(folder: Path, number: int) -> CoordinatorHarness:
    """One more process on the files of this folder."""
    url = f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}"
    numbers = itertools.count(1_000_000 * number)
    return CoordinatorHarness(store=SqlStore(url), blobs=LocalBlobStore(folder / "blobs"), numbers=numbers)


async def run_round(harness: CoordinatorHarness, value: float) -> None:
    """One round of four phones that all say the same."""
    for one in [await harness.assigned(await harness.enrol()) for _ in range(4)]:
        with contextlib.suppress(ApiError):
            await harness.coordinator.reports.report(one, report(constant(value), of=one))
    await harness.coordinator.tick()


async def test_the_average_goes_on_after_each_restart_as_if_there_had_been_none(tmp_path: Path) -> None:
    for number, step in enumerate(STEPS):
        harness = process(tmp_path, number)
        await harness.coordinator.start()
        if number == 0:
            await harness.create_population()
            # Slots for every phone of every process, so that none is left out by chance.
            await harness.task(round="goal = 4\nover_selection = 9.0", release=f"ema_decay = {DECAY}")
        await run_round(harness, step)
        await harness.coordinator.stop()

    weights = constant(0.0)
    expected = WeightAverage.of(weights, DECAY)
    for step in STEPS:
        weights = weights - constant(step)
        expected = expected.after(weights, DECAY)
    last = process(tmp_path, len(STEPS))
    await last.coordinator.start()
    release = await last.coordinator.downlink.release(POPULATION)
    download = await last.coordinator.models.released_model(POPULATION, release.model_version)
    await last.coordinator.stop()
    assert (release.model_version, release.weights) == (len(STEPS), ModelWeights.RELEASED)
    assert release.model_digest == download.digest
    np.testing.assert_equal(download.body, package(expected.mean, LAYOUT).body)
