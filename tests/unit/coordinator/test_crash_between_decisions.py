"""A crash between any two writes while a round is held, decided or rolled back: all of it or nothing."""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import ABSURD, BECAUSE, FIRST, T, cohort, play, send
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_crash_between_steps import ProcessKilled, crash_after, revive

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.operator.populations import RollbackOrder
from keyflock_server.protocol.problems import ApiError
from keyflock_server.storage.blob_identity import MARKER_KEY

#: More than the writes of any of these.
WRITES = 30
BACK = RollbackOrder(to=0, reason="it got worse")

Deed = Callable[[CoordinatorHarness], Awaitable[object]]


async def no_decision(_harness: CoordinatorHarness) -> None:
    """Decide nothing."""


async def accept(harness: CoordinatorHarness) -> None:
    await harness.coordinator.tasks.accept_round(FIRST, audit=BECAUSE)


async def discard(harness: CoordinatorHarness) -> None:
    await harness.coordinator.tasks.discard_round(FIRST, audit=BECAUSE)


async def cancel(harness: CoordinatorHarness) -> None:
    await harness.coordinator.tasks.cancel(T, audit=AUDIT)


async def killed_after(harness: CoordinatorHarness, writes: int, deed: Deed, *, after_write: bool) -> None:
    """Run the deed and a pass in a process that dies at a write; then let another process go on."""
    crash_after(harness, writes, after_write=after_write)
    with contextlib.suppress(ProcessKilled, ApiError):
        await deed(harness)
        await harness.coordinator.tick()
    revive(harness)
    await harness.coordinator.start()
    await harness.coordinator.tick()


async def deliver(claims: list[AssignmentClaims], harness: CoordinatorHarness) -> None:
    for one in claims:
        await send(harness, one)


async def roll_back(harness: CoordinatorHarness) -> None:
    await harness.coordinator.populations.roll_back(POPULATION, BACK, audit=AUDIT)


async def kinds_of_blobs(harness: CoordinatorHarness) -> set[str]:
    kinds = {blob.key.split("/")[0] async for blob in harness.blobs.list_blobs()}
    return kinds - {MARKER_KEY}


@pytest.mark.fault("D8")
@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_that_must_be_held_is_held_wherever_its_process_dies(*, after_write: bool) -> None:
    for writes in range(WRITES):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await harness.task(optimizer=ABSURD)
        claims = await cohort(harness)

        await killed_after(harness, writes, partial(deliver, claims), after_write=after_write)
        for one in claims:
            await send(harness, one)
        await harness.coordinator.tick()

        view = await harness.coordinator.tasks.round(FIRST)
        assert (view.phase, view.counted) == ("held", 4), f"after {writes} writes"
        assert (await harness.coordinator.downlink.release(POPULATION)).model_version == 0
        await harness.coordinator.stop()


@pytest.mark.fault("D8")
@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize(
    ("decision", "phase", "newest"),
    [(no_decision, "held", 0), (accept, "closed", 1), (discard, "discarded", 0), (cancel, "cancelled", 0)],
)
async def test_a_decision_is_taken_whole_or_not_at_all(
    decision: Deed, phase: str, newest: int, *, after_write: bool
) -> None:
    for writes in range(WRITES):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await harness.task(round="goal = 4\nmax_rounds = 1", optimizer=ABSURD)
        await play(harness)

        await killed_after(harness, writes, decision, after_write=after_write)
        between = await harness.coordinator.tasks.round(FIRST)
        await decision(harness)
        await harness.coordinator.tick()

        view = await harness.coordinator.tasks.round(FIRST)
        assert between.phase in {"held", phase}, f"after {writes} writes"
        assert (view.phase, view.counted) == (phase, 4), f"after {writes} writes"
        assert (await harness.coordinator.downlink.release(POPULATION)).model_version == newest
        if newest:
            np.testing.assert_allclose(await harness.model(1), constant(-100.0), rtol=1e-2)
        harness.coordinator = harness.another_coordinator()
        await harness.coordinator.start()
        left = {
            "held": {"versions", "partials", "aggregates", "optimizers"},
            "closed": {"versions", "optimizers"},
        }
        assert await kinds_of_blobs(harness) == left.get(phase, {"versions"})
        await harness.coordinator.stop()


@pytest.mark.fault("D9")
@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_rollback_is_whole_or_has_not_happened(*, after_write: bool) -> None:
    for writes in range(WRITES):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await harness.task(optimizer='name = "fedavgm"', release="ema_decay = 0.5")
        await play(harness)
        claims = await cohort(harness)
        for one in claims[:3]:
            await send(harness, one)

        await killed_after(harness, writes, roll_back, after_write=after_write)
        release = await harness.coordinator.downlink.release(POPULATION)
        withdrawn = await harness.store.populations.withdrawn(POPULATION)
        if release.model_version == 1:
            assert not withdrawn, f"after {writes} writes"
            assert (await listed_rounds(harness.coordinator, T))[1].phase == "collecting"
            await roll_back(harness)
            await harness.coordinator.tick()

        release = await harness.coordinator.downlink.release(POPULATION)
        assert release.model_version == 2, f"after {writes} writes"
        assert await harness.store.populations.withdrawn(POPULATION) == {1}
        assert (await listed_rounds(harness.coordinator, T))[1].phase == "discarded"
        np.testing.assert_array_equal(await harness.model(2), constant(0.0))
        harness.coordinator = harness.another_coordinator()
        await harness.coordinator.start()
        assert await kinds_of_blobs(harness) == {"versions"}
        harness.pass_time(200.0)  # by now whoever comes is taken
        await play(harness)
        np.testing.assert_allclose(await harness.model(3), constant(-1.0), rtol=1e-2)
        await harness.coordinator.stop()
