"""A crash between any two writes of a round: whatever was written, the next process finishes it, once."""

import contextlib
from typing import Any

import numpy as np
import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.round import Phase

#: More than the writes of one round; a budget beyond them means that nothing fails.
WRITES_OF_A_ROUND = 30


class ProcessKilled(Exception):
    """The store accepts no more writes from this process."""


class CrashingProxy:
    """Wraps a repository or blob store and fails after a number of writes, before or after the last one."""

    READS = frozenset(
        {
            "get",
            "all",
            "version",
            "versions",
            "list_by_task",
            "unfinished",
            "live",
            "assignments",
            "assignment",
            "count",
            "count_active",
            "changed_since",
            "list_by_round",
            "outstanding",
            "quarantined",
            "verdicts",
            "withdrawn",
            "partials",
            "phases",
            "page",
            "resolve",
            "names",
            "ids_of",
            "deleting",
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


def crash_after(harness: CoordinatorHarness, writes: int, *, after_write: bool) -> None:
    """Let the harness's coordinator write this often from now on, and then die."""
    budget = [writes]
    deps: Any = harness.coordinator._deps
    for table in ("populations", "tasks", "rounds", "devices"):
        setattr(deps.store, table, CrashingProxy(getattr(deps.store, table), budget, after_write=after_write))
    object.__setattr__(deps, "blobs", CrashingProxy(deps.blobs, budget, after_write=after_write))


def revive(harness: CoordinatorHarness) -> None:
    """Start another process on the same rows and blobs."""
    for table in ("populations", "tasks", "rounds", "devices"):
        dying: Any = getattr(harness.store, table)
        setattr(harness.store, table, dying._inner)
    harness.coordinator = harness.another_coordinator()


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_round_survives_a_crash_at_every_write(*, after_write: bool) -> None:
    for writes in range(WRITES_OF_A_ROUND):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await harness.task(round="goal = 8\nmax_rounds = 1", optimizer='name = "fedavgm"')
        claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
        acknowledged = set()

        crash_after(harness, writes, after_write=after_write)
        for one in claims:
            try:
                await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
                acknowledged.add(one.device)
            except (ApiError, ProcessKilled):
                continue
        with contextlib.suppress(ProcessKilled):
            await harness.coordinator.tick()
        revive(harness)
        await harness.coordinator.start()
        for one in claims:
            try:
                receipt = await harness.coordinator.reports.report(one, report(constant(1.0), of=one))
            except ApiError:
                assert one.device not in acknowledged, f"lost after {writes} writes"
                continue
            assert isinstance(receipt, Receipt)
            assert receipt.duplicate or one.device not in acknowledged
        await harness.coordinator.tick()

        (only,) = await listed_rounds(harness.coordinator, claims[0].task)
        assert (only.phase, only.counted, only.weight) == (Phase.CLOSED, 8, 8.0), f"after {writes} writes"
        np.testing.assert_array_equal(await harness.model(1), constant(-1.0))
        harness.pass_time(3_601.0)
        await harness.coordinator.tick()
        kinds = {blob.key.split("/")[0] async for blob in harness.blobs.list_blobs()}
        assert kinds == {"identity", "versions", "optimizers"}
        await harness.coordinator.stop()
