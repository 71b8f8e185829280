"""The schema of a database: created in an empty one, checked at start, upgraded by an operator's command.

A database's revision is in Alembic's own table. Databases of release 0.1 have a table
``schema_version`` instead, whose only value was 1: they are revision 0001.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    column,
    delete,
    insert,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql.engine import APPLICATION_NAME, autocommit, reader_of
from keyflock_server.storage.sql.failures import reason
from keyflock_server.storage.tables import COMPATIBLE_FROM, SCHEMA_REVISION, cluster, devices, metadata

if TYPE_CHECKING:
    from alembic.config import Config

T = TypeVar("T")

#: The revision of databases from before there were revisions.
BASELINE: Final = "0001"
_BEFORE_REVISIONS: Final = table("schema_version", column("version"))
#: Alembic's own table, as it makes it. A server reads it at every start, and writes it at its first one; to
#: import Alembic takes a quarter of a second, so that is done only where a schema is compared or upgraded.
_REVISIONS: Final = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
#: The name among the cluster's values of the oldest revision whose servers work with the database.
_COMPATIBLE_FROM: Final = "compatible_from"
#: The key of PostgreSQL's advisory lock on creating or changing the schema ("keyflock").
_SCHEMA_LOCK: Final = 0x6B65_7966_6C6F_636B


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The revisions before and after an upgrade."""

    #: None if the database was empty.
    before: str | None
    after: str


async def prepare(engine: AsyncEngine) -> None:
    """Create the tables in an empty database, or check that this release works with them.

    It does with its own schema, and with a newer one that only adds to it, which the database says.

    Guarantees:
        If several processes start at once over an empty database, one creates the tables.
    Raises:
        StorageError: the database cannot be opened, or its schema is of an older release, or of a newer one
            that does not go with this one.
    """
    found = await _in_transaction(reader_of(engine), revision_in)
    if found is None:
        found = await _in_transaction(engine, _create)
    if found != SCHEMA_REVISION and not await _in_transaction(reader_of(engine), partial(_goes_with, found)):
        raise StorageError(_mismatch(found))


async def upgrade(
    engine: AsyncEngine, owner_key: bytes | None = None, *, is_online: bool = False
) -> Upgraded:
    """Bring a database of any earlier release to this one's schema, all of it or nothing.

    Args:
        engine: The engine of the database.
        owner_key: The servers' owner key: it turns user names stored in plain text into digests.
        is_online: Whether servers of the earlier release go on meanwhile and afterwards, which only revisions
            that add allow.
    Guarantees:
        Data that the upgrade removed is in none of SQLite's files. PostgreSQL rewrites the table; its
        write-ahead log, archives and standbys retain the old one for as long as they are retained.
    Raises:
        StorageError: the database cannot be opened, is of a newer release, is in use or (online) of a release
            whose servers must stop, or names users in plain text and there is no key.
    """
    if engine.dialect.name == "sqlite":
        async with autocommit(engine).connect() as connection:
            # SQLite alters a table by copying it, which must not count as deleting the rows that refer to it.
            await connection.execute(text("PRAGMA foreign_keys=OFF"))
            done = await connection.run_sync(partial(_upgrade_sqlite, owner_key, is_online))
    else:
        done = await _in_transaction(engine, partial(_upgrade, owner_key, is_online))
    if done.before not in (None, done.after) and not is_online:
        await _scrub(engine)
    return done


async def revision(engine: AsyncEngine) -> str | None:
    """Return a database's revision, or None if it is empty; raises StorageError."""
    return await _in_transaction(reader_of(engine), revision_in)


def create_at(connection: Connection, revision_id: str) -> None:
    """Create the tables of any known revision, without rows, in an empty database; raises StorageError."""
    from alembic import command

    require_known(revision_id)
    _lock(connection)
    if revision_in(connection) is not None:
        raise StorageError("The database is not empty.")
    if revision_id == SCHEMA_REVISION:
        _create_tables(connection)
    else:
        command.upgrade(_configuration(connection), revision_id)


def differences(connection: Connection) -> list[Any]:
    """Return the differences between a database and this release's tables, in Alembic's format."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def run_revisions(connection: Connection) -> None:
    """Apply every revision to an empty database; the tests of revisions use it."""
    from alembic import command

    command.upgrade(_configuration(connection), SCHEMA_REVISION)


def is_known(found: str) -> bool:
    """Return whether this release can upgrade from that revision."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_configuration(None))
    return any(one.revision == found for one in scripts.walk_revisions())


def require_known(found: str) -> None:
    """Raise StorageError unless this release can upgrade from that revision."""
    if not is_known(found):
        raise StorageError(_mismatch(found))


def _create(connection: Connection) -> str:
    _lock(connection)
    found = revision_in(connection)
    if found is None:
        _create_tables(connection)
        record_compatibility(connection, COMPATIBLE_FROM)
        return SCHEMA_REVISION
    return found


def _create_tables(connection: Connection) -> None:
    metadata.create_all(connection)
    _REVISIONS.create(connection, checkfirst=True)
    connection.execute(insert(_REVISIONS).values(version_num=SCHEMA_REVISION))


async def _scrub(engine: AsyncEngine) -> None:
    """Remove data that an upgrade deleted from the files, as far as the back end can."""
    async with autocommit(engine).connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execute(text("VACUUM"))
            busy, _, _ = (await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))).one()
            if busy:
                raise StorageError(
                    "The upgrade is done, but another program reads the database, and its log still holds "
                    "what was deleted: end that program, then start the server once and stop it."
                )
            return
        try:
            await connection.execute(text("SET statement_timeout = 0"))
            await connection.execute(text(f"VACUUM (FULL, ANALYZE) {devices.name}"))
        except (SQLAlchemyError, StorageError) as error:
            raise StorageError(
                f"The upgrade is done, but the table {devices.name} still holds what was deleted "
                f"({reason(error)}): run VACUUM FULL {devices.name} by hand, then start the servers."
            ) from None


def record_compatibility(connection: Connection, oldest: str) -> None:
    """Write into a database which servers work with it: those of this revision and of later ones."""
    connection.execute(delete(cluster).where(cluster.c.name == _COMPATIBLE_FROM))
    connection.execute(insert(cluster).values(name=_COMPATIBLE_FROM, value=oldest))


def _goes_with(found: str, connection: Connection) -> bool:
    """Return whether this release works with a schema that is newer than its own."""
    if is_known(found):
        return False
    query = select(cluster.c.value).where(cluster.c.name == _COMPATIBLE_FROM)
    oldest = connection.execute(query).scalar_one_or_none()
    return oldest is not None and oldest <= SCHEMA_REVISION


def _upgrade(owner_key: bytes | None, is_online: bool, connection: Connection) -> Upgraded:
    from alembic import command

    _lock(connection)
    before = revision_in(connection)
    if not is_online:
        _refuse_while_used(connection)
    elif before is not None and before < COMPATIBLE_FROM:
        raise StorageError(
            f"From schema {before} the upgrade takes a stop: stop all servers, make a backup, and run it "
            "without --online."
        )
    if before is None:
        return Upgraded(None, _create(connection))
    require_known(before)
    configuration = _configuration(connection)
    configuration.attributes["owner_key"] = owner_key
    if inspect(connection).has_table(_BEFORE_REVISIONS.name):
        command.stamp(configuration, BASELINE)
        connection.execute(text("DROP TABLE schema_version"))
    command.upgrade(configuration, SCHEMA_REVISION)
    record_compatibility(connection, COMPATIBLE_FROM)
    return Upgraded(before, SCHEMA_REVISION)


def _upgrade_sqlite(owner_key: bytes | None, is_online: bool, connection: Connection) -> Upgraded:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        upgraded = _upgrade(owner_key, is_online, connection)
        _check_references(connection)
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")
    return upgraded


def _check_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise StorageError(
            f"The upgrade was undone: {len(broken)} rows would refer to rows that are not there."
        )


def revision_in(connection: Connection) -> str | None:
    """Return the revision of a connection's database, or None if it is empty."""
    tables = inspect(connection)
    if tables.has_table(_REVISIONS.name):
        return connection.execute(select(_REVISIONS.c.version_num)).scalar_one_or_none()
    if tables.has_table(_BEFORE_REVISIONS.name):
        version = connection.execute(select(_BEFORE_REVISIONS.c.version)).scalar_one()
        return BASELINE if version == 1 else f"schema_version {version}"
    return None


def _mismatch(found: str) -> str:
    if is_known(found):
        return f"The database has schema {found}, this release works with {SCHEMA_REVISION}: " + (
            "run keyflock db upgrade --online; servers of the earlier release may go on."
            if found >= COMPATIBLE_FROM
            else "stop all servers, make a backup, and run keyflock db upgrade."
        )
    return (
        f"The database has schema {found}, which a newer release made; this one works with "
        f"{SCHEMA_REVISION}. Run that release, or restore the backup from before its upgrade."
    )


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})


def _refuse_while_used(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    servers = connection.execute(
        text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = :name"
        ),
        {"name": APPLICATION_NAME},
    ).scalar_one()
    if servers:
        raise StorageError(
            f"The database is in use: {servers} connections of keyflock serve. Stop all servers first."
        )


def _configuration(connection: Connection | None) -> "Config":
    from alembic.config import Config

    configuration = Config()
    folder = Path(str(resources.files("keyflock_server.storage.sql"))) / "migrations"
    configuration.set_main_option("script_location", str(folder).replace("%", "%%"))
    configuration.set_main_option("path_separator", "os")
    configuration.attributes["connection"] = connection
    return configuration


async def _in_transaction(engine: AsyncEngine, act: Callable[[Connection], T]) -> T:
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(act)
    except SQLAlchemyError as error:
        raise StorageError(f"The database cannot be opened: {reason(error)}.") from None
