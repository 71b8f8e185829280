"""A database of every released schema, rows and all, becomes exactly what this release declares."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId
from keyflock_server.storage.door import StorageError
from keyflock_server.storage.sql import schema
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import SCHEMA_REVISION, metadata

SCHEMAS = Path(__file__).parent / "schemas"
#: One ``<revision>.<dialect>.sql`` each, as that release made it, and one ``<revision>.rows.sql``.
RELEASED = ("0001",)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"
    else:
        yield request.getfixturevalue("postgres_url")


async def run_file(engine: AsyncEngine, name: str) -> None:
    async with engine.begin() as connection:
        for statement in (SCHEMAS / name).read_text().split(";\n"):
            if statement.strip():
                await connection.exec_driver_sql(statement)


async def released(url: str, revision: str) -> None:
    """The database as that release would have left it."""
    engine = engine_for(url)
    await run_file(engine, f"{revision}.{engine.dialect.name}.sql")
    await run_file(engine, f"{revision}.rows.sql")
    await engine.dispose()


async def what_is_missing(url: str) -> list[str]:
    engine = engine_for(url)
    async with engine.connect() as connection:
        found = await connection.run_sync(schema.differences)
    await engine.dispose()
    return [repr(one) for one in found]


async def upgraded(url: str) -> schema.Upgraded:
    engine = engine_for(url, "keyflock db")
    try:
        return await schema.upgrade(engine)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("revision", RELEASED)
async def test_an_upgrade_ends_in_exactly_the_declared_tables_and_keeps_every_row(
    url: str, revision: str
) -> None:
    await released(url, revision)

    done = await upgraded(url)

    assert done == schema.Upgraded(revision, SCHEMA_REVISION)
    # Each entry is what a new revision must still do to the database: ('add_table', …), ('add_column', …).
    assert await what_is_missing(url) == []
    engine = engine_for(url)
    async with engine.connect() as connection:
        for name in ("populations", "model_versions", "tasks", "rounds", "devices", "heads", "assignments"):
            count = select(func.count()).select_from(metadata.tables[name])
            assert (await connection.execute(count)).scalar_one() == 1, name
    await engine.dispose()
    store = SqlStore(url)
    await store.open()
    found = await store.rounds.assignment(RoundId("t-1"), DeviceId("a"))
    await store.close()
    assert found is not None
    assert found.id == AssignmentId("assignment-of-a")


async def test_every_revision_from_the_first_on_makes_the_declared_tables(url: str) -> None:
    engine = engine_for(url)
    async with engine.begin() as connection:
        await connection.run_sync(schema.run_revisions)
    await engine.dispose()

    assert await what_is_missing(url) == []


async def test_a_database_made_anew_has_the_declared_tables_and_needs_no_upgrade(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()

    again = await upgraded(url)

    assert again == schema.Upgraded(SCHEMA_REVISION, SCHEMA_REVISION)
    assert await what_is_missing(url) == []


async def test_an_older_database_is_refused_with_the_command_that_helps(url: str) -> None:
    await released(url, "0001")
    store = SqlStore(url)

    with pytest.raises(
        StorageError, match=f"schema 0001, this release works with {SCHEMA_REVISION}.*db upgrade"
    ):
        await store.open()
    await store.close()

    assert await what_is_missing(url) != []


async def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()
    engine = engine_for(url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()

    with pytest.raises(StorageError, match="schema 9999, which a newer release made"):
        await store.open()
    await store.close()
    with pytest.raises(StorageError, match="schema 9999, which a newer release made"):
        await upgraded(url)


async def test_processes_that_start_at_once_over_an_empty_database_do_not_collide(url: str) -> None:
    stores = [SqlStore(url) for _ in range(5)]

    await asyncio.gather(*(store.open() for store in stores))

    for store in stores:
        await store.close()
    assert await what_is_missing(url) == []


async def test_a_database_is_not_upgraded_under_running_servers(postgres_url: str) -> None:
    await released(postgres_url, "0001")
    server = engine_for(postgres_url)
    async with server.connect():
        with pytest.raises(StorageError, match="in use: 1 connections of keyflock serve"):
            await upgraded(postgres_url)
    await server.dispose()


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await released(url, "0001")
    before = await what_is_missing(url)

    run = command.upgrade

    def upgrade_and_break(configuration: Config, revision: str) -> None:
        run(configuration, revision)
        raise StorageError("power cut")

    monkeypatch.setattr(command, "upgrade", upgrade_and_break)
    with pytest.raises(StorageError, match="power cut"):
        await upgraded(url)

    assert await what_is_missing(url) == before
