"""What a database's failures are called beyond this package: one word for each thing that can be done.

A database that is gone, full, busy or cut off is ``StorageUnavailable``: nothing of the transaction happened,
or (when the connection broke during the commit) nobody can say whether it did; either way, look again later.
A broken constraint stays SQLAlchemy's ``IntegrityError``: the tables know what it means.
"""

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from keyflock_server.storage.door import StorageError, StorageUnavailable


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
        return unavailable(name, original)

    event.listen(engine, "handle_error", translated, retval=True)


def _is_bad_value(error: BaseException) -> bool:
    # asyncpg finds some by itself, before the server does (SQLSTATE class 22), and quotes them.
    state = getattr(error, "sqlstate", None) or ""
    return state.startswith("22") or "invalid input for query argument" in str(error)


class PatientPool(AsyncAdaptedQueuePool):
    """Says ``StorageUnavailable`` when no connection can be had, for whatever reason."""

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


def reason(error: BaseException) -> str:
    """The first line of what the driver says; lines that follow may quote a row."""
    original = getattr(error, "orig", None) or error
    first = str(original).partition("\n")[0].strip().rstrip(".")
    # The adapter of asyncpg puts the class before the message.
    first = first.rpartition(">: ")[2] if first.startswith("<class ") else first
    return first or type(original).__name__
