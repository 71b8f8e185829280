"""Servers of two releases side by side: over a schema that only adds, and over no other."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Connection, text
from tests.contract.test_schema_upgrades import released, what_is_missing
from tests.unit.coordinator.harness import LAYOUT, CoordinatorHarness, report

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.problems import ApiError
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql import schema
from keyflock_server.storage.sql.engine import autocommit, engine_for
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import COMPATIBLE_FROM, SCHEMA_REVISION

#: A revision that this release does not know.
NEWER = "9998"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"
    else:
        yield request.getfixturevalue("postgres_url")


async def made_newer(url: str, compatible_from: str) -> None:
    """Do to the database what an upgrade to a later release would: add columns, a table and an index."""

    def add(connection: Connection) -> None:
        for statement in (
            "ALTER TABLE devices ADD COLUMN added_later INTEGER NOT NULL DEFAULT 7",
            "ALTER TABLE rounds ADD COLUMN added_later TEXT",
            "ALTER TABLE assignments ADD COLUMN added_later TEXT",
            "CREATE TABLE added_later (device VARCHAR(64) PRIMARY KEY)",
            "CREATE INDEX devices_added_later ON devices (added_later)",
            f"UPDATE alembic_version SET version_num = '{NEWER}'",  # noqa: S608 - our own
        ):
            connection.execute(text(statement))
        schema.record_compatibility(connection, compatible_from)

    engine = engine_for(url, "keyflock db")
    async with engine.begin() as connection:
        await connection.run_sync(add)
    await engine.dispose()


async def reports(harness: CoordinatorHarness, count: int) -> None:
    """Let new phones enrol, check in and report."""
    for number in range(count):
        claims = await harness.assigned(await harness.enrol())
        delta = np.full(LAYOUT.size, 0.25 + number, np.float32)
        try:
            await harness.coordinator.reports.report(claims, report(delta, of=claims))
        except ApiError:
            assert number < count - 1  # it waits for the others


async def test_servers_go_on_while_the_schema_becomes_newer_and_start_over_it(url: str) -> None:
    running = CoordinatorHarness(store=SqlStore(url))
    await running.coordinator.start()
    await running.create_population()
    await running.task(round="goal = 8")
    await reports(running, 4)

    await made_newer(url, SCHEMA_REVISION)
    await running.coordinator.tick()
    await reports(running, 4)
    await running.coordinator.tick()
    await running.coordinator.stop()
    await running.store.close()
    started = CoordinatorHarness(running.now, store=SqlStore(url), blobs=running.blobs)
    started.numbers = itertools.count(1_000)
    await started.coordinator.start()
    await started.coordinator.tick()
    await reports(started, 4)
    first, *others = [one.round for one in await started.store.rounds.list_by_task(TaskName("t"))]
    await started.coordinator.stop()
    await started.store.close()

    assert (first.counted, first.result_version) == (8, 1)
    assert [one.counted for one in others] == [4]


async def test_a_newer_schema_that_does_not_go_with_this_release_is_refused(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()
    await made_newer(url, NEWER)

    with pytest.raises(StorageError, match=f"schema {NEWER}, which a newer release made"):
        await store.open()
    await store.close()


async def test_an_upgrade_that_takes_a_stop_is_not_made_online(url: str) -> None:
    await released(url, "0002")
    before = await what_is_missing(url)
    engine = engine_for(url, "keyflock db")

    with pytest.raises(StorageError, match="From schema 0002 the upgrade takes a stop"):
        await schema.upgrade(engine, b"o" * 32, is_online=True)

    await engine.dispose()
    assert await what_is_missing(url) == before


async def test_an_upgrade_that_only_adds_is_made_under_running_servers(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = f"{int(SCHEMA_REVISION) - 1:04}"
    monkeypatch.setattr(schema, "COMPATIBLE_FROM", before)
    engine, server = engine_for(url, "keyflock db"), engine_for(url)
    async with engine.begin() as connection:
        await connection.run_sync(schema.create_at, before)

    async with autocommit(server).connect() as connection:
        await connection.execute(text("SELECT count(*) FROM devices"))
        done = await schema.upgrade(engine, is_online=True)
        devices = (await connection.execute(text("SELECT count(*) FROM devices"))).scalar_one()

    await server.dispose()
    await engine.dispose()
    assert done == schema.Upgraded(before, SCHEMA_REVISION)
    assert devices == 0
    assert await what_is_missing(url) == []


async def test_a_database_says_which_servers_work_with_it(url: str) -> None:
    made, upgraded = SqlStore(url, "keyflock db"), engine_for(url, "keyflock db")
    await made.open()

    first = await made.cluster.get("compatible_from")
    await made.cluster.forget(["compatible_from"])
    await schema.upgrade(upgraded)
    again = await made.cluster.get("compatible_from")

    await made.close()
    await upgraded.dispose()
    assert (first, again) == (COMPATIBLE_FROM, COMPATIBLE_FROM)
