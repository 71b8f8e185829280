"""Database URLs: what an operator may write, as SQLAlchemy reads it, and as it may be shown."""

import contextlib
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from keyflock_server.storage.door import StorageError

_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}


def database_url(text: str) -> URL:
    """The URL with the driver that this project uses.

    Raises:
        StorageError: fault of the operator; it is no URL of a database that this project knows. The message
            repeats nothing of the text, which may hold a password.
    """
    url = None
    with contextlib.suppress(ArgumentError, ValueError):
        url = make_url(text)
    if url is None or url.drivername not in _DRIVERS:
        raise StorageError(
            "The database URL is not understood; write postgresql+asyncpg://USER:PASSWORD@HOST:PORT/DATABASE "
            "(special characters of the password as %XX) or sqlite+aiosqlite:////PATH."
        )
    return url.set(drivername=_DRIVERS[url.drivername])


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite database; None: it is another kind of database, or in memory."""
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(str(url.database))


def shown(url: URL) -> str:
    """Which database it is, for messages and logs: no password, and no options, which may hold one."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite {url.database or 'in memory'}"
    return f"postgresql {url.host or 'local'}:{url.port or 5432}/{url.database or ''}"
