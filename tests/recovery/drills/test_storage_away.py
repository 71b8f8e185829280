"""The disk is full, the blobs or the rows are away: nobody is acknowledged, and work goes on afterwards."""

import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.storage.sql.store import SqlStore

T = TaskName("t")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[CoordinatorHarness]:
    """A harness on real files, with a round that wants eight phones."""
    harness = CoordinatorHarness(
        store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
        blobs=LocalBlobStore(tmp_path / "blobs"),
    )
    await harness.coordinator.start()
    await harness.create_population()
    await harness.task(round="goal = 8\nover_selection = 0.0")
    yield harness
    await harness.coordinator.stop()


async def send_all(
    harness: CoordinatorHarness, claims: list[AssignmentClaims]
) -> list[Receipt | ProblemCode]:
    answers: list[Receipt | ProblemCode] = []
    for one in claims:
        try:
            answers.append(await harness.coordinator.reports.report(one, report(constant(1.0), of=one)))
        except ApiError as refused:
            answers.append(refused.code)
    return answers


async def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


PUTS, ALL = ("put_async",), ("put_async", "get_async", "delete_async")


def lose_blobs(patch: pytest.MonkeyPatch, calls: tuple[str, ...] = PUTS) -> None:
    """From now on these calls find no space; ``patch.undo()`` makes room."""
    for call in calls:
        patch.setattr(f"obstore.{call}", no_space)


@pytest.mark.parametrize("calls", [PUTS, ALL], ids=["disk full", "blobs away"])
async def test_without_blobs_nobody_is_acknowledged_and_all_are_counted_once_they_are_back(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...]
) -> None:
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    lose_blobs(monkeypatch, calls)
    while_broken = await send_all(harness, claims)
    await harness.coordinator.tick()

    monkeypatch.undo()
    await harness.coordinator.tick()
    again = await send_all(harness, claims)

    assert while_broken == [ProblemCode.REPORT_PENDING] * 8
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 8
    (closed, _) = await listed_rounds(harness.coordinator, T)
    assert (closed.phase, closed.counted, closed.weight) == ("closed", 8, 8.0)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_disk_that_fills_up_while_a_round_closes_only_delays_it(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    await send_all(harness, claims)
    lose_blobs(monkeypatch)
    await harness.coordinator.tick()
    stuck = await harness.coordinator.tasks.round(claims[0].round)

    monkeypatch.undo()
    await harness.coordinator.tick()

    assert stuck.phase == "closing"
    assert "No space left on device" in stuck.detail
    assert (await harness.coordinator.tasks.round(claims[0].round)).phase == "closed"
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


@contextlib.asynccontextmanager
async def full(harness: CoordinatorHarness) -> AsyncIterator[None]:
    """SQLite's own bound on its file: what is in it now. A disk that is full says the same."""
    store: Any = harness.store
    pools = store._engine.sync_engine.pool, store._transactions._engine.pool

    def bound(connection: Any, *_: object) -> None:  # noqa: ANN401 - the driver's own connection
        connection.execute("PRAGMA max_page_count = 1")

    def unbound(connection: Any, *_: object) -> None:  # noqa: ANN401 - the driver's own connection
        connection.execute("PRAGMA max_page_count = 1073741823")

    for pool in pools:
        event.listen(pool, "checkout", bound)
    yield
    for pool in pools:
        event.remove(pool, "checkout", bound)
        event.listen(pool, "checkout", unbound)


async def test_a_database_that_is_full_says_so_and_goes_on_when_there_is_room(
    harness: CoordinatorHarness,
) -> None:
    claims, refused = [await harness.assigned(await harness.enrol()) for _ in range(8)], None
    async with full(harness):
        for _ in range(500):
            try:
                await harness.enrol(tags=("tag" * 20,))
            except StorageUnavailable as error:
                refused = error
                break
        while_full = await send_all(harness, claims)
        await harness.coordinator.tick()

    await harness.coordinator.tick()
    again = await send_all(harness, claims)
    await harness.coordinator.tick()

    assert refused is not None
    assert "full" in str(refused)
    # What fits into the pages at hand may be counted, and is acknowledged then.
    assert {one for one in while_full if not isinstance(one, Receipt)} == {ProblemCode.REPORT_PENDING}
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 8
    assert (await harness.coordinator.tasks.round(claims[0].round)).counted == 8
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_rows_that_are_away_for_a_while_cost_no_acknowledged_report(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    first = await send_all(harness, claims[:4])

    async def away(*_: object) -> None:
        raise StorageUnavailable("The database cannot be used now: no answer.")

    monkeypatch.setattr(harness.store.group_writer, "commit", away)
    monkeypatch.setattr(harness.store.rounds, "unfinished", away)
    while_away = await send_all(harness, claims[4:])
    await harness.coordinator.tick()
    monkeypatch.undo()
    await harness.coordinator.tick()
    again = await send_all(harness, claims)

    assert isinstance(first[-1], Receipt)
    assert while_away == [ProblemCode.REPORT_PENDING] * 4
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 8
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))
