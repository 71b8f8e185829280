"""A SQLite connection that goes to its thread as seldom as possible: twice a transaction, mostly.

aiosqlite keeps each connection on a thread of its own, so that the event loop never waits for a disk. Every
small step is then a trip to that thread and back, which takes longer than most statements do: a cursor,
BEGIN, closing the cursor, the next cursor, the statement, its rows, closing that cursor, ROLLBACK. Here a
trip is what may wait: BEGIN goes with the first statement, a statement brings its rows along, and what only
touches memory stays with the caller.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, Self, TypeVar

import aiosqlite

T = TypeVar("T")

#: Either does nothing that anyone could notice before the statement that follows it.
_BEGINNINGS: Final = frozenset({"BEGIN", "BEGIN IMMEDIATE"})
#: As aiosqlite's own; rows are read whole here.
_CHUNK: Final = 64


class Cursor(aiosqlite.Cursor):
    """One statement at a time, with all of its rows."""

    def __init__(self, connection: "Connection", cursor: sqlite3.Cursor) -> None:
        super().__init__(connection, cursor)
        self._connection = connection
        self._rows: list[Any] = []
        #: A cancelled caller leaves its statement to the thread: then closing must wait its turn there.
        self._is_under_way = False

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Self:
        """One trip; none for the beginning of a transaction."""
        if sql in _BEGINNINGS:
            self._connection.owed = sql
        else:
            await self._trip(self._cursor.execute, sql, parameters or ())
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        """One trip."""
        await self._trip(self._cursor.executemany, sql, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        """The rows that are left; no trip."""
        rows, self._rows = self._rows, []
        return rows

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Some of them; no trip."""
        count = self.arraysize if size is None else size
        rows, self._rows = self._rows[:count], self._rows[count:]
        return rows

    async def fetchone(self) -> Any:  # noqa: ANN401 - a row, as the driver makes it
        """The next one; no trip."""
        return self._rows.pop(0) if self._rows else None

    async def close(self) -> None:
        """No trip, unless a statement is under way."""
        if self._is_under_way:
            await super().close()
        else:
            self._cursor.close()

    async def _trip(self, method: Callable[..., object], sql: str, parameters: Iterable[Any]) -> None:
        def there() -> list[Any]:
            try:
                if (beginning := self._connection.taken_debt()) is not None:
                    self._cursor.execute(beginning)
                method(sql, parameters)
                return [] if self._cursor.description is None else self._cursor.fetchall()
            finally:
                self._is_under_way = False

        self._is_under_way = True
        self._rows = await self._connection.run(there)


class Connection(aiosqlite.Connection):
    """As aiosqlite's; SQLAlchemy uses no more of it than this."""

    #: The beginning of a transaction that goes with its first statement.
    owed: str | None = None

    def taken_debt(self) -> str | None:
        """What is owed; once."""
        beginning, self.owed = self.owed, None
        return beginning

    async def run(self, function: Callable[[], T]) -> T:
        """What a function returns that is run on the connection's thread."""
        found: T = await self._execute(function)  # type: ignore[no-untyped-call]
        return found

    def cursor(self) -> Cursor:  # type: ignore[override]  # ready at once, where aiosqlite's is awaited
        """No trip."""
        return Cursor(self, self._conn.cursor())

    async def commit(self) -> None:
        """One trip, if anything was begun."""
        if self.taken_debt() is None and self.in_transaction:
            await super().commit()

    async def rollback(self) -> None:
        """One trip, if anything was begun."""
        if self.taken_debt() is None and self.in_transaction:
            await super().rollback()


def connect(database: str, **options: Any) -> Awaitable[aiosqlite.Connection]:  # noqa: ANN401 - sqlite3's
    """What SQLAlchemy calls for a connection.

    Args:
        database: The file.
        options: As for ``sqlite3.connect``; ``check_same_thread`` must be False, for cursors are made here.
    """

    def connector() -> sqlite3.Connection:
        opened: sqlite3.Connection = sqlite3.connect(database, **options)
        return opened

    connection = Connection(connector, _CHUNK)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does with those that it makes
    return connection
