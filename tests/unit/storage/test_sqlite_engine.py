"""The settings of SQLite connections, and SQLite's errors."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from keyflock_server.storage.errors import StorageError, StorageUnavailable
from keyflock_server.storage.sql import engine as engine_module
from keyflock_server.storage.sql.engine import _use_write_ahead_log
from keyflock_server.storage.sql.store import SqlStore


def url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}"


async def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "keyflock.sqlite3").write_bytes(b"not a database, but long enough to be looked at" * 50)
    store = SqlStore(url(tmp_path))

    with pytest.raises(StorageError, match="is damaged: file is not a database"):
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


class BusyFile:
    """A cursor on a file that others are changing to WAL, and its connection."""

    def __init__(self, refusals: int, code: int = sqlite3.SQLITE_BUSY) -> None:
        self.refusals, self.code, self.pauses = refusals, code, 0

    def execute(self, _statement: str) -> None:
        if self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error

    def run_async(self, _pause: object) -> None:
        self.pauses += 1


def test_a_file_that_another_process_is_changing_to_wal_is_asked_again() -> None:
    file = BusyFile(refusals=3)

    _use_write_ahead_log(file, file)

    assert (file.refusals, file.pauses) == (0, 3)


@pytest.mark.parametrize(
    "file", [BusyFile(10**6), BusyFile(1, sqlite3.SQLITE_IOERR)], ids=["locked for good", "broken"]
)
def test_a_file_that_cannot_become_wal_is_an_error(file: BusyFile) -> None:
    with pytest.raises(sqlite3.OperationalError):
        _use_write_ahead_log(file, file)


@pytest.mark.fault("D11")
async def test_a_connection_that_cannot_be_had_in_time_is_a_store_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "POOL_SIZE", 1)
    monkeypatch.setattr(engine_module, "POOL_OVERFLOW", 0)
    monkeypatch.setattr(engine_module, "POOL_TIMEOUT_S", 0.01)
    store = SqlStore(url(tmp_path))
    await store.open()

    async with store._engine.connect():
        with pytest.raises(StorageUnavailable, match="all connections of this server are busy"):
            await store.tasks.all()

    assert await store.tasks.all() == []
    await store.close()
