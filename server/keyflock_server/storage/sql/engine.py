"""The connection to a database: made ready, checked for its schema, and closed."""

from typing import Any, Final

from sqlalchemy import Connection, event, insert, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from keyflock_server.storage.door import StorageError
from keyflock_server.storage.tables import SCHEMA_VERSION, metadata, schema_version

_IS_READ: Final = "keyflock_is_read"
_IS_BARE: Final = "keyflock_is_bare"


def engine_for(url: str) -> AsyncEngine:
    """An engine for ``url``, for example ``sqlite+aiosqlite:///…/keyflock.sqlite3``."""
    # An error that quotes its parameters would put devices and pseudonyms into the log.
    engine = create_async_engine(url, hide_parameters=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin)
    return engine


def reader_of(engine: AsyncEngine) -> AsyncEngine:
    """The same engine for transactions that only read: they never wait for those that write."""
    return engine.execution_options(**{_IS_READ: True})


def bare(engine: AsyncEngine) -> AsyncEngine:
    """The same engine for statements that no transaction may surround."""
    return engine.execution_options(**{_IS_BARE: True})


async def prepare(engine: AsyncEngine) -> None:
    """Create the tables in an empty database, or check that they are of this release.

    Raises:
        StorageError: the database cannot be opened, or is of another schema version.
    """
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_create_or_check)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).split("\n")[0]
        raise StorageError(f"The database cannot be opened: {reason}.") from None


def _create_or_check(connection: Connection) -> None:
    if not inspect(connection).has_table(schema_version.name):
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(version=SCHEMA_VERSION))
        return
    found = connection.execute(select(schema_version.c.version)).scalar_one()
    if found != SCHEMA_VERSION:
        raise StorageError(
            f"The database has schema version {found}; this release works with {SCHEMA_VERSION}. "
            "Start the release that made it, or another data folder."
        )


def _set_up_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection
    # The driver would begin transactions late; ours begin where they say so.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "busy_timeout=10000",
        "secure_delete=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get(_IS_BARE, False):
        return
    # A transaction that reads first and writes later could find that another has written in between.
    is_read = connection.get_execution_options().get(_IS_READ, False)
    connection.exec_driver_sql("BEGIN" if is_read else "BEGIN IMMEDIATE")
