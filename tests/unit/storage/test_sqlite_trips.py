"""How often a SQLite connection goes to its thread, and what becomes of what it owes."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.door import StorageUnavailable
from keyflock_server.storage.sql.engine import engine_for, reader_of
from keyflock_server.storage.sql.sqlite_trips import Connection, connect


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = engine_for(f"sqlite+aiosqlite:///{tmp_path / 'trips.sqlite3'}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE numbers (value INTEGER PRIMARY KEY)"))
        await connection.execute(text("INSERT INTO numbers VALUES (1), (2), (3)"))
    yield engine
    await engine.dispose()


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done on connections' threads, by name."""
    made: list[str] = []
    there = Connection._execute

    async def counted(self: Connection, function: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        made.append(getattr(function, "__name__", repr(function)))
        return await there(self, function, *args, **kwargs)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Connection, "_execute", counted)
    return made


async def values(engine: AsyncEngine) -> list[int]:
    async with reader_of(engine).connect() as connection:
        return list((await connection.execute(text("SELECT value FROM numbers ORDER BY value"))).scalars())


async def write(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_transaction_that_reads_goes_twice(engine: AsyncEngine, trips: list[str]) -> None:
    found = await values(engine)

    assert found == [1, 2, 3]
    assert trips == ["there", "rollback"]


async def test_a_transaction_that_writes_goes_once_a_statement_and_once_to_commit(
    engine: AsyncEngine, trips: list[str]
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO numbers VALUES (4)"))
        await connection.execute(text("DELETE FROM numbers WHERE value = 1"))

    assert trips == ["there", "there", "commit"]
    assert await values(engine) == [2, 3, 4]


async def test_many_rows_in_one_statement_are_one_trip(engine: AsyncEngine, trips: list[str]) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO numbers VALUES (:value)"), [{"value": value} for value in (7, 8, 9)]
        )

    assert trips == ["there", "commit"]


async def test_a_transaction_without_a_statement_goes_nowhere(engine: AsyncEngine, trips: list[str]) -> None:
    async with engine.begin():
        pass

    assert trips == []
    assert await values(engine) == [1, 2, 3]


async def test_a_statement_that_fails_takes_its_transaction_with_it(engine: AsyncEngine) -> None:
    with pytest.raises(IntegrityError):
        await write(engine, "INSERT INTO numbers VALUES (4)", "INSERT INTO numbers VALUES (1)")

    assert await values(engine) == [1, 2, 3]


async def test_reads_of_one_transaction_see_one_state(engine: AsyncEngine) -> None:
    count = text("SELECT COUNT(*) FROM numbers")
    async with reader_of(engine).connect() as reading:
        before = (await reading.execute(count)).scalar_one()
        async with engine.begin() as writing:
            await writing.execute(text("INSERT INTO numbers VALUES (4)"))
        meanwhile = (await reading.execute(count)).scalar_one()

    assert (before, meanwhile) == (3, 3)


async def test_a_transaction_that_may_write_does_not_begin_while_another_does(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    # Of the whole pool: the one connection that there is yet.
    await write(engine, "PRAGMA busy_timeout=1")
    other = sqlite3.connect(tmp_path / "trips.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(StorageUnavailable, match="database is locked"):
        await write(engine, "SELECT * FROM numbers")
    other.execute("ROLLBACK")
    other.close()

    await write(engine, "INSERT INTO numbers VALUES (4)")
    assert await values(engine) == [1, 2, 3, 4]


async def test_a_caller_that_is_cancelled_leaves_nothing_behind(engine: AsyncEngine) -> None:
    is_under_way, may_go_on = threading.Event(), threading.Event()

    def hold() -> int:
        is_under_way.set()
        may_go_on.wait()
        return 4

    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, Connection)
        await driver.create_function("hold", 0, hold)
    writing = asyncio.create_task(write(engine, "INSERT INTO numbers SELECT hold()"))
    await asyncio.to_thread(is_under_way.wait)

    writing.cancel()
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing

    await write(engine, "INSERT INTO numbers VALUES (5)")
    assert await values(engine) == [1, 2, 3, 5]


async def test_rows_can_be_taken_one_by_one_and_in_parts(tmp_path: Path) -> None:
    connection = await connect(str(tmp_path / "rows.sqlite3"), check_same_thread=False)
    cursor = await connection.cursor().__aenter__()
    await cursor.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4")

    taken = [await cursor.fetchone(), await cursor.fetchmany(2), await cursor.fetchall()]

    assert taken == [(1,), [(2,), (3,)], [(4,)]]
    assert await cursor.fetchone() is None
    await cursor.close()
    await connection.close()
