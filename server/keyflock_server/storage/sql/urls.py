"""Database URLs: parsing what an operator wrote, and showing it without secrets."""

import contextlib
from pathlib import Path
from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from keyflock_server.storage.errors import StorageError

_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}


def database_url(text: str) -> URL:
    """Return the URL with the driver that this project uses.

    Raises:
        StorageError: fault of the operator; this is no URL of a supported database. The message quotes
            nothing of the text, which may hold a password.
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
    """Return the file of a SQLite database; None for another kind of database, or one in memory."""
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(str(url.database))


def display_name(url: URL) -> str:
    """Return the database's name for messages and logs: no password, and no options, which may hold one."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite {url.database or 'in memory'}"
    return f"postgresql {url.host or 'local'}:{url.port or 5432}/{url.database or ''}"
