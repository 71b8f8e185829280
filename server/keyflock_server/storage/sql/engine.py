"""The connection to a database, SQLite or PostgreSQL, set up so that both keep the same promises.

SQLite: a transaction that may write takes the write lock when it begins (``BEGIN IMMEDIATE``), so those
that read and then write follow one another. PostgreSQL: READ COMMITTED, and such transactions lock the rows
they read (``FOR UPDATE``); nothing has to be tried again because of another transaction, as it would have to
be under SERIALIZABLE.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sqlalchemy import URL, Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keyflock_server.storage.door import StorageError
from keyflock_server.storage.sql.failures import PatientPool, translate_failures, unavailable
from keyflock_server.storage.sql.urls import database_url, shown

_IS_READ: Final = "keyflock_is_read"
_IS_BARE: Final = "keyflock_is_bare"

#: How long a SQLite connection waits for another one's lock.
BUSY_TIMEOUT_MS: Final = 10_000
#: Connections of one process that are kept, and how many more a rush may open. A transaction takes
#: milliseconds; the pool is for phones that commit at once, and PostgreSQL's default is 100 in all.
POOL_SIZE: Final = 10
POOL_OVERFLOW: Final = 10
#: How long a transaction waits for a free connection.
POOL_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
#: What PostgreSQL ends by itself: a statement, the wait for a lock, a transaction that nobody goes on with.
STATEMENT_TIMEOUT_S: Final = 30.0
LOCK_TIMEOUT_S: Final = 10.0
IDLE_TRANSACTION_TIMEOUT_S: Final = 60.0
#: Beyond it the server is believed to be cut off, for it would have ended the statement itself.
COMMAND_TIMEOUT_S: Final = 40.0
#: How often a new file is asked to become WAL, and the pause between: some seconds in all.
_WAL_ATTEMPTS: Final = 200
_WAL_PAUSE_S: Final = 0.02
#: What servers are called in ``pg_stat_activity``.
APPLICATION_NAME: Final = "keyflock"


def engine_for(url: str, application_name: str = APPLICATION_NAME) -> AsyncEngine:
    """An engine for ``url``: ``sqlite+aiosqlite:///…/keyflock.sqlite3``, ``postgresql+asyncpg://…``.

    Guarantees:
        A connection that broke is replaced when it is taken out of the pool, so a database that was away is
        used again as soon as it is back. What fails meanwhile raises ``StorageUnavailable``. No message holds
        the password, or a value of a row.
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
    translate_failures(engine.sync_engine, shown(parsed))
    return engine


def reader_of(engine: AsyncEngine) -> AsyncEngine:
    """The same engine for transactions that only read: they never wait for those that write."""
    return engine.execution_options(**{_IS_READ: True})


def bare(engine: AsyncEngine) -> AsyncEngine:
    """The same engine for statements that no transaction may surround."""
    if engine.dialect.name == "sqlite":
        return engine.execution_options(**{_IS_BARE: True})
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def _sqlite_pool(url: URL) -> dict[str, Any]:
    if url.database in {None, "", ":memory:"}:
        return {}  # one connection, for it is the database
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
    # asyncpg reads the URL by itself, as libpq would: sslmode, several hosts, target_session_attrs.
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
            raise unavailable(shown(url), TimeoutError(late)) from None
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise unavailable(shown(url), error) from None

    return connect


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
    # The driver would begin transactions late; ours begin where they say so.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _use_write_ahead_log(connection, cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_write_ahead_log(connection: Any, cursor: Any) -> None:  # noqa: ANN401 - the driver's own
    # Two that change a new file to WAL at once would wait for each other: SQLite refuses one of them without
    # asking its busy timeout.
    for attempt in range(_WAL_ATTEMPTS):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt + 1 == _WAL_ATTEMPTS:
                raise
            connection.run_async(lambda _: asyncio.sleep(_WAL_PAUSE_S))
        else:
            return


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get(_IS_BARE, False):
        return
    # A transaction that reads first and writes later could find that another has written in between.
    is_read = connection.get_execution_options().get(_IS_READ, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
