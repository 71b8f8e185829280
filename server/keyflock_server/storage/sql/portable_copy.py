"""A portable copy of a database: one SQLite file with all rows of one moment, whichever back end they are in.

The file has the tables of the database's own revision, and no program but this one is needed to make or to
read it. A copy of SQLite becomes a PostgreSQL database as well as a SQLite one, and the other way round.

Neither way are writers stopped: a copy of SQLite reads through one pinned transaction beside the write-ahead
log, which grows meanwhile; a copy of PostgreSQL reads through one REPEATABLE READ transaction.

Source: https://www.sqlite.org/backup.html, https://www.postgresql.org/docs/current/transaction-iso.html
"""

import asyncio
import contextlib
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from keyflock_server.storage.blob_identity import STORE_ID
from keyflock_server.storage.errors import StorageError, StorageUnavailable
from keyflock_server.storage.sql import schema
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.failures import damaged, is_damage, reason, unavailable
from keyflock_server.storage.sql.urls import database_url, display_name, sqlite_file

#: Called with what is done and what there is to do: pages of a SQLite file, or rows.
OnProgress = Callable[[int, int], None]

#: The name of a copying process in PostgreSQL's list of connections.
APPLICATION_NAME: Final = "keyflock backup"
#: Alembic's table: its row is written with the tables.
_REVISIONS: Final = "alembic_version"
#: A copy is another database, whose blobs are its own. The holders of its leases know nothing of it.
_NEW_IDENTITY: Final = "UPDATE cluster SET value = :id WHERE name = :name"
_FREE_LEASES: Final = "UPDATE leases SET holder = ''"
#: Codes of errors that a disk gives which takes no more, or nothing.
_WRITE_ERRORS: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
    }
)
_PAGES_AT_ONCE: Final = 2_000
_ROWS_AT_ONCE: Final = 5_000
#: Rows in one COPY, which the driver's time limit is for.
_ROWS_IN_COPY: Final = 50_000


async def copy_to_file(url: str, file: Path, on_progress: OnProgress) -> None:
    """Write all rows of a database, as they are at one moment, into a new SQLite file.

    Args:
        url: The database.
        file: The new file; no other file belongs to it when this returns.
        on_progress: Called now and then.
    Raises:
        StorageError: the database cannot be read, or the file cannot be written.
    """
    source = sqlite_file(database_url(url))
    if source is not None:
        await _in_thread(lambda is_stopped: _copy_pages(source, file, on_progress, is_stopped))
    else:
        await _copy_from_postgres(url, file, on_progress)
    make_single(file)


async def copy_from_file(file: Path, url: str, store_id: str, on_progress: OnProgress) -> None:
    """Write all rows of a portable copy into a database that is not there or empty: all of them or none.

    Args:
        file: The copy.
        url: The new database; it gets the copy's revision.
        store_id: The identity of the new database, which is not the one that was copied.
        on_progress: Called now and then.
    Raises:
        StorageError: the database is not empty, or cannot be written.
    """
    target = sqlite_file(database_url(url))
    if target is not None:
        await asyncio.to_thread(_place, file, target, store_id)
        return
    engine = engine_for(url, APPLICATION_NAME)
    try:
        with contextlib.closing(open_copy(file)) as copy:
            async with engine.begin() as connection:
                await connection.run_sync(schema.create_at, revision_of(copy))
                await connection.execute(text("SET LOCAL statement_timeout = 0"))
                await _fill(connection, copy, on_progress)
                await connection.execute(text(_NEW_IDENTITY), {"id": store_id, "name": STORE_ID})
                await connection.execute(text(_FREE_LEASES))
    finally:
        await engine.dispose()


async def database_at(url: str) -> str | None:
    """Return the name of what is in the way of a new database, or None; raises StorageError.

    A log without its database would be written into the next file of that name.
    """
    parsed = database_url(url)
    file = sqlite_file(parsed)
    if file is not None:
        beside = (file.with_name(f"{file.name}{end}") for end in ("", "-wal", "-journal"))
        return next((str(one) for one in beside if one.exists()), None)
    engine = engine_for(url, APPLICATION_NAME)
    try:
        return None if await schema.revision(engine) is None else display_name(parsed)
    finally:
        await engine.dispose()


def open_copy(file: Path) -> sqlite3.Connection:
    """Open a portable copy for reading; nothing of the file is changed, and no file is made beside it."""
    return sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro&immutable=1", uri=True)


def revision_of(copy: sqlite3.Connection) -> str:
    """Return the revision of an open copy's schema."""
    return str(copy.execute(f"SELECT version_num FROM {_REVISIONS}").fetchone()[0])  # noqa: S608 - our own name


def tables_of(copy: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the columns of an open copy's tables; a table comes after those that it refers to."""
    named = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name"
    names = [str(row[0]) for row in copy.execute(named) if row[0] != _REVISIONS]
    refers = {
        name: {str(row[2]) for row in copy.execute(f"PRAGMA foreign_key_list({_quoted(name)})")}
        for name in names
    }
    return {
        name: tuple(str(row[1]) for row in copy.execute(f"PRAGMA table_info({_quoted(name)})"))
        for name in TopologicalSorter(refers).static_order()
    }


def row_counts(copy: sqlite3.Connection) -> dict[str, int]:
    """Return the number of rows in each table of an open copy."""
    return {
        name: int(copy.execute(f"SELECT count(*) FROM {_quoted(name)}").fetchone()[0])  # noqa: S608 - a reflected name
        for name in tables_of(copy)
    }


def _copy_pages(source: Path, file: Path, on_progress: OnProgress, is_stopped: threading.Event) -> None:
    def report(_status: int, remaining: int, total: int) -> None:
        if is_stopped.is_set():
            raise InterruptedError
        on_progress(total - remaining, total)

    live = sqlite3.connect(f"file:{quote(str(source.absolute()))}?mode=ro", uri=True)
    with contextlib.closing(live), contextlib.closing(sqlite3.connect(file)) as copy:
        try:
            copy.execute("PRAGMA synchronous=OFF")  # it is synced as a whole at the end
            # Without a transaction of its own the copy would begin anew whenever a server writes.
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchone()
            live.backup(copy, pages=_PAGES_AT_ONCE, progress=report)
        except sqlite3.Error as error:
            raise _failed(source, file, error) from None


async def _copy_from_postgres(url: str, file: Path, on_progress: OnProgress) -> None:
    engine = engine_for(url, APPLICATION_NAME)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            found = await connection.run_sync(schema.revision_in)
            if found is None:
                raise StorageError("The database is empty.")
            await _create_file(file, found)
            with contextlib.closing(sqlite3.connect(file)) as copy:
                copy.execute("PRAGMA synchronous=OFF")
                await _fill_file(connection, copy, file, on_progress)
    finally:
        await engine.dispose()


async def _create_file(file: Path, revision: str) -> None:
    engine: AsyncEngine = engine_for(f"sqlite+aiosqlite:///{file}")
    try:
        async with engine.begin() as connection:
            await connection.run_sync(schema.create_at, revision)
    finally:
        await engine.dispose()


async def _fill_file(
    connection: AsyncConnection, copy: sqlite3.Connection, file: Path, on_progress: OnProgress
) -> None:
    driver, tables = await _driver_of(connection), tables_of(copy)
    total = 0
    for name in tables:
        total += (await connection.execute(text(f"SELECT count(*) FROM {_quoted(name)}"))).scalar_one()  # noqa: S608
    done = 0
    try:
        for name, columns in tables.items():
            listed, places = ", ".join(map(_quoted, columns)), ", ".join("?" * len(columns))
            into = f"INSERT INTO {_quoted(name)} ({listed}) VALUES ({places})"  # noqa: S608 - reflected names
            rows = await driver.cursor(f"SELECT {listed} FROM {_quoted(name)}")  # noqa: S608
            while part := await rows.fetch(_ROWS_AT_ONCE):
                copy.executemany(into, (tuple(map(_for_sqlite, row)) for row in part))
                done += len(part)
                on_progress(done, total)
        copy.commit()
    except sqlite3.Error as error:
        raise unavailable(f"sqlite {file}", error) from None


async def _fill(connection: AsyncConnection, copy: sqlite3.Connection, on_progress: OnProgress) -> None:
    driver = await _driver_of(connection)
    counts, done = row_counts(copy), 0
    total = sum(counts.values())
    for name, columns in tables_of(copy).items():
        kinds = await _column_kinds(connection, name)
        convert = [_FROM_SQLITE.get(kinds[column]) for column in columns]
        listed = ", ".join(map(_quoted, columns))
        rows = copy.execute(f"SELECT {listed} FROM {_quoted(name)}")  # noqa: S608 - reflected names
        for part in _parts(rows):
            await driver.copy_records_to_table(
                name, columns=columns, records=[_converted(row, convert) for row in part]
            )
            done += len(part)
            on_progress(done, total)


async def _driver_of(connection: AsyncConnection) -> Any:  # noqa: ANN401 - asyncpg's own connection
    """Return the driver's connection, in the same transaction.

    SQLAlchemy has no COPY, which is many times as fast as inserting rows one by one, and reads rows at a
    third of the driver's speed.
    """
    return (await connection.get_raw_connection()).driver_connection


async def _column_kinds(connection: AsyncConnection, table: str) -> dict[str, str]:
    query = text(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND table_name = :name"
    )
    return {row[0]: row[1] for row in await connection.execute(query, {"name": table})}


def _parts(rows: sqlite3.Cursor) -> Iterator[list[tuple[Any, ...]]]:
    while part := rows.fetchmany(_ROWS_IN_COPY):
        yield part


def _converted(row: Sequence[Any], convert: Sequence[Callable[[Any], Any] | None]) -> tuple[Any, ...]:
    return tuple(
        value if value is None or change is None else change(value)
        for value, change in zip(row, convert, strict=True)
    )


def _instant(value: str) -> datetime:
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


#: How PostgreSQL's driver wants what SQLite has as text or numbers, by the type of the column.
_FROM_SQLITE: Final[dict[str, Callable[[Any], Any]]] = {
    "timestamp with time zone": _instant,
    "boolean": bool,
    "double precision": float,
}


def _for_sqlite(value: object) -> object:
    # As SQLAlchemy writes instants into SQLite.
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    return value


def _place(file: Path, target: Path, store_id: str) -> None:
    """Copy the file beside its place, change its identity, and rename it when it is whole."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        shutil.copyfile(file, unfinished)
        with contextlib.closing(sqlite3.connect(unfinished)) as copy, copy:
            copy.execute(_NEW_IDENTITY, {"id": store_id, "name": STORE_ID})
            copy.execute(_FREE_LEASES)
        unfinished.rename(target)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise unavailable(f"sqlite {target}", error) from None


def make_single(file: Path) -> None:
    """Leave no write-ahead log beside the file, so that its bytes are all of it."""
    try:
        with contextlib.closing(sqlite3.connect(file)) as copy:
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise unavailable(f"sqlite {file}", error) from None


async def _in_thread(work: Callable[[threading.Event], None]) -> None:
    """Do the work in a thread; stop it when this is cancelled."""
    is_stopped = threading.Event()
    thread = asyncio.create_task(asyncio.to_thread(work, is_stopped))
    try:
        await asyncio.shield(thread)
    except asyncio.CancelledError:
        is_stopped.set()
        await asyncio.gather(thread, return_exceptions=True)
        raise


def _failed(source: Path, file: Path, error: sqlite3.Error) -> StorageError:
    if is_damage(error):
        return damaged(f"sqlite {source}", error)
    # Only the copy is written: the source is open for reading.
    code = getattr(error, "sqlite_errorcode", 0)
    if code in _WRITE_ERRORS or code & 0xFF == sqlite3.SQLITE_FULL:
        return StorageUnavailable(f"The copy {file} cannot be written: {reason(error)}.")
    return unavailable(f"sqlite {source}", error)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
