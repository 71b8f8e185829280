"""What SQLite must be told, and what it says."""

from pathlib import Path

import pytest
from sqlalchemy import text

from keyflock_server.storage.door import StorageError
from keyflock_server.storage.sql.store import SqlStore


def url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}"


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "keyflock.sqlite3").write_bytes(b"not a database, but long enough to be looked at" * 50)
    store = SqlStore(url(tmp_path))

    with pytest.raises(StorageError, match="cannot be used now: file is not a database"):
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
