"""What a database's failures are called beyond this package: one word for each thing that can be done.

A database that is gone, full, busy or cut off is ``StorageUnavailable``: nothing of the transaction happened,
or (when the connection broke during the commit) nobody can say whether it did; either way, look again later.
A broken constraint stays SQLAlchemy's ``IntegrityError``: the tables know what it means.
"""

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import IntegrityError, NotSupportedError, ProgrammingError

from keyflock_server.storage.door import StorageUnavailable


def translate_failures(engine: Engine, name: str) -> None:
    """From now on, what fails for want of the database raises ``StorageUnavailable``.

    Args:
        engine: The engine.
        name: Which database, without secrets.
    """

    def translated(context: ExceptionContext) -> BaseException | None:
        found = context.sqlalchemy_exception
        if isinstance(found, (IntegrityError, ProgrammingError, NotSupportedError)):
            return None
        original = context.original_exception
        if found is None and not isinstance(original, (OSError, TimeoutError)):
            return None
        if isinstance(original, TimeoutError):
            context.is_disconnect = True  # what the server still does on that connection, nobody knows
        return unavailable(name, original)

    event.listen(engine, "handle_error", translated, retval=True)


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
