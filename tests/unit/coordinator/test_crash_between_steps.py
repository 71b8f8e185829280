"""A crash between any two writes of a round: whatever was written, the next process finishes it, once."""

import contextlib
from typing import Any

import numpy as np
import pytest
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import Refused
from keyflock_server.rounds.round import Phase

#: More than the writes of one round; a budget beyond them means that nothing fails.
WRITES_OF_A_ROUND = 30


class ProcessKilled(Exception):
    """The store takes no more writes from this process."""


class Dying:
    """A table or blob store that dies after a number of writes, before or after doing the last one."""

    READS = frozenset(
        {
            "get",
            "all",
            "version",
            "versions",
            "of_task",
            "unfinished",
            "assignments",
            "assignment",
            "count",
            "count_active",
            "last_silence",
            "quarantined",
            "verdicts",
            "withdrawn",
            "partials",
            "phases",
            "tally",
        }
    )

    def __init__(self, inner: Any, budget: list[int], *, after_write: bool) -> None:  # noqa: ANN401 - any table
        self._inner = inner
        self._budget = budget
        self._after_write = after_write

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the table has
        method = getattr(self._inner, name)
        if name in self.READS or name == "list_blobs":
            return method

        async def write(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the table takes
            self._budget[0] -= 1
            if self._budget[0] < 0:
                raise ProcessKilled
            if self._budget[0] == 0 and self._after_write:
                await method(*arguments, **named)
                raise ProcessKilled
            return await method(*arguments, **named)

        return write


def make_dying(town: Town, writes: int, *, after_write: bool) -> None:
    """From now on the town's coordinator may write so often and then dies."""
    budget = [writes]
    world: Any = town.coordinator._world
    for table in ("populations", "tasks", "rounds", "devices"):
        setattr(world.store, table, Dying(getattr(world.store, table), budget, after_write=after_write))
    object.__setattr__(world, "blobs", Dying(world.blobs, budget, after_write=after_write))


def revive(town: Town) -> None:
    """Another process, on the same rows and blobs."""
    for table in ("populations", "tasks", "rounds", "devices"):
        dying: Any = getattr(town.store, table)
        setattr(town.store, table, dying._inner)
    town.coordinator = town.another_coordinator()


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_survives_a_crash_at_every_write(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        town = Town()
        await town.coordinator.start()
        await town.found()
        await town.task(round="goal = 8\nmax_rounds = 1", optimizer='name = "fedavgm"')
        claims = [await town.assigned(await town.enrol()) for _ in range(8)]
        acknowledged = set()

        make_dying(town, writes, after_write=after_write)
        for one in claims:
            try:
                await town.coordinator.report(one, report(constant(1.0), of=one))
                acknowledged.add(one.device)
            except (Refused, ProcessKilled):
                continue
        with contextlib.suppress(ProcessKilled):
            await town.coordinator.tick()
        revive(town)
        await town.coordinator.start()
        for one in claims:
            try:
                receipt = await town.coordinator.report(one, report(constant(1.0), of=one))
            except Refused:
                assert one.device not in acknowledged, f"lost after {writes} writes"
                continue
            assert isinstance(receipt, Receipt)
            assert receipt.duplicate or one.device not in acknowledged
        await town.coordinator.tick()

        (only,) = await town.coordinator.rounds(claims[0].task)
        assert (only.phase, only.counted, only.weight) == (Phase.CLOSED, 8, 8.0), f"after {writes} writes"
        np.testing.assert_array_equal(await town.model(1), constant(-1.0))
        town.pass_time(3_601.0)
        await town.coordinator.tick()
        kinds = {blob.key.split("/")[0] async for blob in town.blobs.list_blobs()}
        assert kinds == {"identity", "versions", "optimizers"}
        await town.coordinator.stop()
