"""What a process writes to SQLite goes through one queue: no transaction finds the file locked by another."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device
from tests.contract.test_group_writer_contract import engine_of
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import (
    EN,
    NOW,
    POPULATION,
    ROUND,
    T1,
    TASK,
    VERSION,
    device,
    forgotten,
    seen,
)

from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.rounds.availability import ArrivalCount
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.storage.interfaces.group_writer import AddDevice
from keyflock_server.storage.retention import UnprovenDevices
from keyflock_server.storage.sql.store import SqlStore

CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"


def statements_of(engine: Any) -> list[str]:  # noqa: ANN401 - a synchronous engine, whatever its driver
    """Return the list that the engine's statements are added to, from now on."""
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:  # noqa: ANN401
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    return asked


def writes(store: SqlStore) -> list[Coroutine[Any, Any, object]]:
    """Return one write of each kind that a server does while phones call."""
    unproven = UnprovenDevices(seen_before=NOW - timedelta(days=1), now=NOW)
    return [
        store.group_writer.commit([AddDevice(device("b"))]),
        store.devices.record_seen([seen("a")]),
        store.devices.set_has_head(DeviceId("a")),
        store.devices.set_quarantine(DeviceId("a"), None, b"{}", None, NOW),
        store.leases.acquire("leader", "r", 10.0, NOW),
        store.arrivals.add([ArrivalCount(TASK.name, 1, 1, 1)]),
        store.verdicts.add({T1: {"counted": 1}}),
        store.personal_models.put(HEAD, None),
        store.personal_models.delete(EN, [HEAD.owner]),
        store.revocations.prune(NOW, 10),
        store.tombstones.prune(NOW, 10),
        store.retention.delete_unproven(unproven, 10),
        store.tasks.set_status(TASK.name, TaskStatus.PAUSED),
        store.personal_models.scrub(),
        store.rounds.clear_up(T1),
        store.populations.rename(EN, PopulationName("english"), audit=AUDIT),
        store.cluster.claim("name", "value"),
        forgotten(store, "a"),
    ]


@contextlib.asynccontextmanager
async def a_long_transaction(store: SqlStore) -> AsyncIterator[None]:
    """Hold the file locked by a transaction of the store until the block ends."""
    has_begun, may_end = threading.Event(), threading.Event()

    def hold(_connection: Connection) -> None:
        has_begun.set()
        may_end.wait()

    held = asyncio.create_task(store._transactions.run(hold))
    await asyncio.to_thread(has_begun.wait)
    try:
        yield
    finally:
        may_end.set()
        await held


async def test_writes_follow_one_another_in_one_queue_and_reads_wait_for_none(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}")
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    await store.tasks.add(TASK, audit=AUDIT)
    await store.rounds.add(ROUND)
    await add_device(store, device("a"))
    elsewhere, in_queue = statements_of(store._engine.sync_engine), statements_of(engine_of(store))

    async with a_long_transaction(store):
        waiting = [asyncio.create_task(write) for write in writes(store)]
        known = await store.devices.get(DeviceId("a"))
    await asyncio.gather(*waiting)

    assert known is not None
    assert [one for one in elsewhere if one in ("BEGIN IMMEDIATE", CHECKPOINT)] == []
    # All but the checkpoint are transactions; so is what they waited for.
    assert (in_queue.count("BEGIN IMMEDIATE"), in_queue.count(CHECKPOINT)) == (len(waiting), 1)
    assert await store.devices.get(DeviceId("a")) is None
    await store.close()


async def test_closing_finishes_the_writes_that_were_asked_for_and_refuses_later_ones(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}")
    await store.open()
    async with a_long_transaction(store):
        asked = asyncio.create_task(store.cluster.claim("name", "value"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
    await closing

    assert await asked == "value"
    with pytest.raises(StorageUnavailable):
        await store.cluster.claim("other", "value")
    with pytest.raises(StorageUnavailable):
        await store.personal_models.scrub()
