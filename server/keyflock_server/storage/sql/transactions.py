"""Transactions as functions of a connection, run from the event loop with as few hand-overs as there can be.

A function over SQLAlchemy's own ``Connection`` runs on both back ends. On SQLite all that a process writes
goes through one thread, one transaction after the other. Over aiosqlite each statement would be handed to a
thread and back three times while the file is locked, and transactions that want to write at once would ask
for the lock again and again, up to 100 ms apart and in no order.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine, UpdateBase
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.storage.sql.engine import autocommit

P = ParamSpec("P")
T = TypeVar("T")


class Transactions(Protocol):
    """Runs functions, each in a transaction of its own: every one that writes, but those of the schema."""

    async def run(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what the function does, once it is committed; roll back and raise what it raises."""
        ...

    async def run_outside(self, function: Callable[[Connection], T]) -> T:
        """Return what the function does outside a transaction, for statements that cannot be in one."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def rows_changed(connection: Connection, statement: UpdateBase) -> int:
    """Execute a statement, and return how many rows it changed."""
    return connection.execute(statement).rowcount


class EngineTransactions:
    """Runs transactions over an engine of the event loop; the engine is closed by whoever made it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what the function does, once it is committed; roll back and raise what it raises."""
        async with self._engine.begin() as connection:
            return await connection.run_sync(function, *args, **kwargs)

    async def run_outside(self, function: Callable[[Connection], T]) -> T:
        """Return what the function does outside a transaction."""
        async with autocommit(self._engine).connect() as connection:
            return await connection.run_sync(function)

    async def close(self) -> None:
        """Do nothing: the engine is not ours."""


class ThreadTransactions:
    """Runs transactions one after the other, on a thread of their own, over an engine without an event loop.

    Guarantees:
        A caller that is cancelled does not interrupt the transaction; one that has not begun never does.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keyflock-writer")

    async def run(
        self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what the function does, once it is committed; roll back and raise what it raises."""

        def transaction() -> T:
            with self._engine.begin() as connection:
                return function(connection, *args, **kwargs)

        return await self._on_thread(transaction)

    async def run_outside(self, function: Callable[[Connection], T]) -> T:
        """Return what the function does outside a transaction, between two of them."""

        def outside() -> T:
            with autocommit(self._engine).connect() as connection:
                return function(connection)

        return await self._on_thread(outside)

    async def close(self) -> None:
        """Finish all transactions that were asked for, and end the thread."""
        await asyncio.to_thread(self._thread.shutdown)
        self._engine.dispose()

    async def _on_thread(self, work: Callable[[], T]) -> T:
        try:
            result = asyncio.get_running_loop().run_in_executor(self._thread, work)
        except RuntimeError:  # the thread has ended; a call was under way while the server stopped
            raise StorageUnavailable("The database cannot be used any more: it is closed.") from None
        return await result
