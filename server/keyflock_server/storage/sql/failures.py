"""Translation of database failures into the errors of ``storage.errors``.

A database that is stopped, full, busy or cut off raises ``StorageUnavailable``: the transaction did not
happen, or (when the connection broke during the commit) nobody can say whether it did. Either way, try again
later. A damaged database raises ``StorageDamaged``: trying again does not help. A broken constraint stays
SQLAlchemy's ``IntegrityError``: the repositories know what it means.
"""

import sqlite3
from typing import Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from keyflock_server.storage.errors import StorageDamaged, StorageError, StorageUnavailable

_SQLITE_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: data_corrupted and index_corrupted.
_POSTGRES_DAMAGE: Final = {"XX001", "XX002"}


def translate_failures(engine: Engine, name: str) -> None:
    """Make the engine raise ``StorageUnavailable`` where the database fails.

    Args:
        engine: The engine.
        name: The name of the database for messages, without secrets.
    """

    def translated(context: ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:
            return None  # the pool replaces the broken connection
        found = context.sqlalchemy_exception
        if isinstance(found, (IntegrityError, ProgrammingError, NotSupportedError)):
            return None
        original = context.original_exception
        if found is None and not isinstance(original, (OSError, TimeoutError)):
            return None
        if _is_bad_value(original):
            return StorageError(f"The database ({name}) does not take a value that it was given.")
        if isinstance(original, TimeoutError):
            context.is_disconnect = True  # the server may still be working on that connection
        return (damaged if is_damage(original) else unavailable)(name, original)

    event.listen(engine, "handle_error", translated, retval=True)


def _is_bad_value(error: BaseException) -> bool:
    # asyncpg itself detects some before the server does (SQLSTATE class 22), and quotes them.
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith("22") or "invalid input for query argument" in str(error)


class PatientPool(AsyncAdaptedQueuePool):
    """A connection pool that raises ``StorageUnavailable`` when it has no connection, for whatever reason."""

    #: SQLAlchemy names a pool's logger after its module; with this name it is as quiet as SQLAlchemy's own.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.PatientPool"

    def connect(self) -> PoolProxiedConnection:
        """Return a working connection."""
        try:
            return super().connect()
        except PoolTimeoutError:
            raise StorageUnavailable(
                "The database cannot be used now: all connections of this server are busy."
            ) from None
        except (OSError, TimeoutError) as error:
            raise StorageUnavailable(f"The database cannot be used now: {reason(error)}.") from None


def unavailable(name: str, error: BaseException) -> StorageUnavailable:
    """Return the error for a database that cannot be used now."""
    return StorageUnavailable(f"The database ({name}) cannot be used now: {reason(error)}.")


def damaged(name: str, error: BaseException) -> StorageDamaged:
    """Return the error for a damaged database."""
    return StorageDamaged(
        f"The database ({name}) is damaged: {reason(error)}. It is left as it is: stop all servers, keep a "
        "copy of it, and restore database and blobs from the backup of one moment."
    )


def is_damage(error: BaseException) -> bool:
    """Return whether the error says that the file is damaged, or is no database."""
    code, state = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlstate", None)
    return (code is not None and code & 0xFF in _SQLITE_DAMAGE) or state in _POSTGRES_DAMAGE


def reason(error: BaseException) -> str:
    """Return the first line of the driver's message; the following lines may quote a row."""
    original = getattr(error, "orig", None) or error
    first = str(original).partition("\n")[0].strip().rstrip(".")
    # The adapter of asyncpg puts the class before the message.
    first = first.rpartition(">: ")[2] if first.startswith("<class ") else first
    return first or type(original).__name__
