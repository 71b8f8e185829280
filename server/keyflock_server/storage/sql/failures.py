"""What a database's failures are called beyond this package: one word for each thing that can be done.

A database that is gone, full, busy or cut off is ``StorageUnavailable``: nothing of the transaction happened,
or (when the connection broke during the commit) nobody can say whether it did; either way, look again later.
What is damaged is ``StorageDamaged``: looking again later will not mend it.
A broken constraint stays SQLAlchemy's ``IntegrityError``: the tables know what it means.
"""

import sqlite3
from typing import Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from keyflock_server.storage.door import StorageDamaged, StorageError, StorageUnavailable

_SQLITE_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: data_corrupted and index_corrupted.
_POSTGRES_DAMAGE: Final = {"XX001", "XX002"}


def translate_failures(engine: Engine, name: str) -> None:
    """From now on, what fails for want of the database raises ``StorageUnavailable``.

    Args:
        engine: The engine.
        name: Which database, without secrets.
    """

    def translated(context: ExceptionContext) -> BaseException | None:
        if context.is_pre_ping:
            return None  # the pool puts another connection in the broken one's place
        found = context.sqlalchemy_exception
        if isinstance(found, (IntegrityError, ProgrammingError, NotSupportedError)):
            return None
        original = context.original_exception
        if found is None and not isinstance(original, (OSError, TimeoutError)):
            return None
        if _is_bad_value(original):
            return StorageError(f"The database ({name}) does not take a value that it was given.")
        if isinstance(original, TimeoutError):
            context.is_disconnect = True  # what the server still does on that connection, nobody knows
        return (damaged if is_damage(original) else unavailable)(name, original)

    event.listen(engine, "handle_error", translated, retval=True)


def _is_bad_value(error: BaseException) -> bool:
    # asyncpg finds some by itself, before the server does (SQLSTATE class 22), and quotes them.
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith("22") or "invalid input for query argument" in str(error)


class PatientPool(AsyncAdaptedQueuePool):
    """Says ``StorageUnavailable`` when no connection can be had, for whatever reason."""

    #: SQLAlchemy names a pool's logger after its module: as one of its own it is as quiet as they are.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.PatientPool"

    def connect(self) -> PoolProxiedConnection:
        """A connection that works."""
        try:
            return super().connect()
        except PoolTimeoutError:
            raise StorageUnavailable(
                "The database cannot be used now: all connections of this server are busy."
            ) from None
        except (OSError, TimeoutError) as error:
            raise StorageUnavailable(f"The database cannot be used now: {reason(error)}.") from None


def unavailable(name: str, error: BaseException) -> StorageUnavailable:
    """The error for a database that cannot be used now."""
    return StorageUnavailable(f"The database ({name}) cannot be used now: {reason(error)}.")


def damaged(name: str, error: BaseException) -> StorageDamaged:
    """The error for a database that cannot be read as what was written."""
    return StorageDamaged(
        f"The database ({name}) is damaged: {reason(error)}. It is left as it is: stop all servers, keep a "
        "copy of it, and restore database and blobs from the backup of one moment."
    )


def is_damage(error: BaseException) -> bool:
    """Whether the database says that it is damaged, or is none."""
    code, state = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlstate", None)
    return (code is not None and code & 0xFF in _SQLITE_DAMAGE) or state in _POSTGRES_DAMAGE


def reason(error: BaseException) -> str:
    """The first line of what the driver says; lines that follow may quote a row."""
    original = getattr(error, "orig", None) or error
    first = str(original).partition("\n")[0].strip().rstrip(".")
    # The adapter of asyncpg puts the class before the message.
    first = first.rpartition(">: ")[2] if first.startswith("<class ") else first
    return first or type(original).__name__
