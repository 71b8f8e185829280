"""A database is opened only by the release whose schema it has."""

from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import create_async_engine

from keyflock_server.storage.door import StorageError
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import schema_version


def url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}"


async def test_a_database_of_another_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = SqlStore(url(tmp_path))
    await store.open()
    await store.close()
    engine = create_async_engine(url(tmp_path))
    async with engine.begin() as connection:
        await connection.execute(update(schema_version).values(version=99))
    await engine.dispose()

    newer = SqlStore(url(tmp_path))
    with pytest.raises(StorageError, match="schema version 99; this release works with 1"):
        await newer.open()
    await newer.close()


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "keyflock.sqlite3").write_bytes(b"not a database, but long enough to be looked at" * 50)
    store = SqlStore(url(tmp_path))

    with pytest.raises(StorageError, match="cannot be opened"):
        await store.open()
    await store.close()


async def test_commits_reach_the_disk_before_they_return(tmp_path: Path) -> None:
    store = SqlStore(url(tmp_path))
    await store.open()

    async with store._engine.connect() as connection:
        journal = (await connection.execute(text("PRAGMA journal_mode"))).scalar_one()
        synchronous = (await connection.execute(text("PRAGMA synchronous"))).scalar_one()
    await store.close()

    assert (journal, synchronous) == ("wal", 2)
