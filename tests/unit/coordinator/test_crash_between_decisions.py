"""A crash between any two writes while a round is held, decided or rolled back: all of it or nothing."""

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial

import numpy as np
import pytest
from tests.unit.coordinator.diverging_task import ABSURD, BECAUSE, FIRST, T, cohort, play, send
from tests.unit.coordinator.test_crash_between_steps import ProcessKilled, make_dying, revive
from tests.unit.coordinator.town import POPULATION, Town, constant

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.operator import RollbackOrder
from keyflock_server.protocol.problems import Refused
from keyflock_server.storage.blob_identity import MARKER_KEY

#: More than the writes of any of these.
WRITES = 30
BACK = RollbackOrder(to=0, reason="it got worse")

Deed = Callable[[Town], Awaitable[object]]


async def no_decision(_town: Town) -> None:
    """Nobody has said anything yet."""


async def accept(town: Town) -> None:
    await town.coordinator.accept_round(FIRST, BECAUSE)


async def discard(town: Town) -> None:
    await town.coordinator.discard_round(FIRST, BECAUSE)


async def cancel(town: Town) -> None:
    await town.coordinator.cancel_task(T)


async def killed_after(town: Town, writes: int, deed: Deed, *, after_write: bool) -> None:
    """The deed and a pass after it, in a process that dies at a write; then another process goes on."""
    make_dying(town, writes, after_write=after_write)
    with contextlib.suppress(ProcessKilled, Refused):
        await deed(town)
        await town.coordinator.tick()
    revive(town)
    await town.coordinator.start()
    await town.coordinator.tick()


async def deliver(claims: list[AssignmentClaims], town: Town) -> None:
    for one in claims:
        await send(town, one)


async def roll_back(town: Town) -> None:
    await town.coordinator.roll_back(POPULATION, BACK)


async def kinds_of_blobs(town: Town) -> set[str]:
    kinds = {blob.key.split("/")[0] async for blob in town.blobs.list_blobs()}
    return kinds - {MARKER_KEY}


@pytest.mark.fault("D8")
@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_that_must_be_held_is_held_wherever_its_process_dies(*, after_write: bool) -> None:
    for writes in range(WRITES):
        town = Town()
        await town.coordinator.start()
        await town.found()
        await town.task(optimizer=ABSURD)
        claims = await cohort(town)

        await killed_after(town, writes, partial(deliver, claims), after_write=after_write)
        for one in claims:
            await send(town, one)
        await town.coordinator.tick()

        view = await town.coordinator.round(FIRST)
        assert (view.phase, view.counted) == ("held", 4), f"after {writes} writes"
        assert (await town.coordinator.release(POPULATION)).model_version == 0
        await town.coordinator.stop()


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
        town = Town()
        await town.coordinator.start()
        await town.found()
        await town.task(round="goal = 4\nmax_rounds = 1", optimizer=ABSURD)
        await play(town)

        await killed_after(town, writes, decision, after_write=after_write)
        between = await town.coordinator.round(FIRST)
        await decision(town)
        await town.coordinator.tick()

        view = await town.coordinator.round(FIRST)
        assert between.phase in {"held", phase}, f"after {writes} writes"
        assert (view.phase, view.counted) == (phase, 4), f"after {writes} writes"
        assert (await town.coordinator.release(POPULATION)).model_version == newest
        if newest:
            np.testing.assert_allclose(await town.model(1), constant(-100.0), rtol=1e-2)
        town.coordinator = town.another_coordinator()
        await town.coordinator.start()
        left = {
            "held": {"versions", "partials", "aggregates", "optimizers"},
            "closed": {"versions", "optimizers"},
        }
        assert await kinds_of_blobs(town) == left.get(phase, {"versions"})
        await town.coordinator.stop()


@pytest.mark.fault("D9")
@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_rollback_is_whole_or_has_not_happened(*, after_write: bool) -> None:
    for writes in range(WRITES):
        town = Town()
        await town.coordinator.start()
        await town.found()
        await town.task(optimizer='name = "fedavgm"', release="ema_decay = 0.5")
        await play(town)
        claims = await cohort(town)
        for one in claims[:3]:
            await send(town, one)

        await killed_after(town, writes, roll_back, after_write=after_write)
        release = await town.coordinator.release(POPULATION)
        withdrawn = await town.store.populations.withdrawn(POPULATION)
        if release.model_version == 1:
            assert not withdrawn, f"after {writes} writes"
            assert (await town.coordinator.rounds(T))[1].phase == "collecting"
            await roll_back(town)
            await town.coordinator.tick()

        release = await town.coordinator.release(POPULATION)
        assert release.model_version == 2, f"after {writes} writes"
        assert await town.store.populations.withdrawn(POPULATION) == {1}
        assert (await town.coordinator.rounds(T))[1].phase == "discarded"
        np.testing.assert_array_equal(await town.model(2), constant(0.0))
        town.coordinator = town.another_coordinator()
        await town.coordinator.start()
        assert await kinds_of_blobs(town) == {"versions"}
        town.pass_time(200.0)  # by now whoever comes is taken
        await play(town)
        np.testing.assert_allclose(await town.model(3), constant(-1.0), rtol=1e-2)
        await town.coordinator.stop()
