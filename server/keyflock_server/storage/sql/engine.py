"""The engine of a database, SQLite or PostgreSQL, configured so that both give the same guarantees.

SQLite: a transaction that may write takes the write lock when it begins (``BEGIN IMMEDIATE``), so those
that read and then write follow one another. PostgreSQL: READ COMMITTED, and such transactions lock the rows
they read (``FOR UPDATE``); nothing has to be tried again because of another transaction, as it would have to
be under SERIALIZABLE.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql.failures import PatientPool, translate_failures, unavailable
from keyflock_server.storage.sql.urls import database_url, display_name, sqlite_file

E = TypeVar("E", Engine, AsyncEngine)

_IS_READ: Final = "keyflock_is_read"
_IS_BARE: Final = "keyflock_is_bare"

#: How long a SQLite connection waits for a lock of another one.
BUSY_TIMEOUT_MS: Final = 10_000
#: Pooled connections of one process, and how many more it may open under load. A transaction takes
#: milliseconds; the pool is for reports that commit at once, and PostgreSQL's default is 100 in all.
POOL_SIZE: Final = 10
POOL_OVERFLOW: Final = 10
#: How long a transaction waits for a free connection.
POOL_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
#: Limits that PostgreSQL enforces: of a statement, of the wait for a lock, of an idle transaction.
STATEMENT_TIMEOUT_S: Final = 30.0
LOCK_TIMEOUT_S: Final = 10.0
IDLE_TRANSACTION_TIMEOUT_S: Final = 60.0
#: After this time the server counts as cut off, because it would have ended the statement itself.
COMMAND_TIMEOUT_S: Final = 40.0
#: Number of attempts to switch a new file to WAL, and the pause between them: some seconds in all.
_WAL_ATTEMPTS: Final = 200
_WAL_PAUSE_S: Final = 0.02
#: The name of servers in ``pg_stat_activity``.
APPLICATION_NAME: Final = "keyflock"


def engine_for(url: str, application_name: str = APPLICATION_NAME) -> AsyncEngine:
    """Return an engine for ``url``: ``sqlite+aiosqlite:///…/keyflock.sqlite3``, ``postgresql+asyncpg://…``.

    Guarantees:
        A broken connection is replaced when it is taken out of the pool, so a restarted database is used
        again at once. Calls that fail meanwhile raise ``StorageUnavailable``. No message holds the password,
        or a value of a row.
    Raises:
        StorageError: fault of the operator; the URL is not understood, or its driver is not installed.
    """
    parsed = database_url(url)
    # An error that quotes its parameters would put devices and pseudonyms into the log.
    if parsed.get_backend_name() == "sqlite":
        engine = create_async_engine(parsed, hide_parameters=True, **_sqlite_pool(parsed))
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin)
    else:
        engine = create_async_engine(
            parsed,
            hide_parameters=True,
            async_creator=_postgres_connector(parsed, application_name),
            poolclass=PatientPool,
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT_S,
            pool_pre_ping=True,
        )
    translate_failures(engine.sync_engine, display_name(parsed))
    return engine


def thread_engine_for(url: str) -> Engine | None:
    """Return an engine over the same SQLite file for one thread; None for any other database.

    Guarantees:
        Its one connection is set up as those of ``engine_for`` are.
    """
    parsed = database_url(url)
    if sqlite_file(parsed) is None:
        return None
    engine = create_engine(
        parsed.set(drivername="sqlite+pysqlite"), hide_parameters=True, pool_size=1, max_overflow=0
    )
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin)
    translate_failures(engine, display_name(parsed))
    return engine


def reader_of(engine: AsyncEngine) -> AsyncEngine:
    """Return the same engine for transactions that only read: they never wait for writing ones."""
    return engine.execution_options(**{_IS_READ: True})


def autocommit(engine: E) -> E:
    """Return the same engine for statements that must run outside a transaction."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_IS_BARE: True})
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _sqlite_pool(url: URL) -> dict[str, Any]:
    if url.database in {None, "", ":memory:"}:
        return {}  # one connection, because it is the database
    return {
        "poolclass": PatientPool,
        "pool_size": POOL_SIZE,
        "max_overflow": POOL_OVERFLOW,
        "pool_timeout": POOL_TIMEOUT_S,
    }


def _postgres_connector(url: URL, application_name: str) -> Callable[[], Awaitable[Any]]:
    try:
        import asyncpg
    except ImportError:
        raise StorageError(
            "PostgreSQL needs the package asyncpg: pip install 'keyflock[postgres]'."
        ) from None
    # asyncpg parses the URL itself, as libpq would: sslmode, several hosts, target_session_attrs.
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    settings = {
        "application_name": application_name,
        "default_transaction_isolation": "read committed",
        "statement_timeout": _milliseconds(STATEMENT_TIMEOUT_S),
        "lock_timeout": _milliseconds(LOCK_TIMEOUT_S),
        "idle_in_transaction_session_timeout": _milliseconds(IDLE_TRANSACTION_TIMEOUT_S),
        "jit": "off",  # our statements are short; compiling them costs more than it saves
    }

    async def connect() -> Any:  # noqa: ANN401 - the driver's own connection
        try:
            return await asyncpg.connect(
                dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=COMMAND_TIMEOUT_S, server_settings=settings
            )
        except TimeoutError:
            late = f"no answer within {CONNECT_TIMEOUT_S:g} s"
            raise unavailable(display_name(url), TimeoutError(late)) from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise unavailable(display_name(url), error) from None

    return connect


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
    # The driver would begin transactions late; ours begin explicitly.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _use_write_ahead_log(connection, cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_write_ahead_log(connection: Any, cursor: Any) -> None:  # noqa: ANN401 - the driver's own
    # If two connections switch a new file to WAL at once, SQLite refuses one of them without applying its
    # busy timeout.
    for attempt in range(_WAL_ATTEMPTS):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt + 1 == _WAL_ATTEMPTS:
                raise
            _pause(connection, _WAL_PAUSE_S)
        else:
            return


def _pause(connection: Any, seconds: float) -> None:  # noqa: ANN401 - the driver's own connection
    if hasattr(connection, "run_async"):
        connection.run_async(lambda _: asyncio.sleep(seconds))
    else:  # a thread's connection
        time.sleep(seconds)


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get(_IS_BARE, False):
        return
    # A transaction that reads first and writes later could find that another has written in between.
    is_read = connection.get_execution_options().get(_IS_READ, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
