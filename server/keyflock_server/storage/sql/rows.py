"""Many rows, which are read in pages, and rows whose content is damaged.

A damaged row is reported by its name, and the other rows are still read.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Row, Select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.storage.errors import StorageDamaged, UnreadableRow

T = TypeVar("T")

#: Rows that are read, and converted, without a break.
PAGE_ROWS: Final = 500


async def read_in_pages(
    reader: AsyncEngine, query: Select[Any], records_of: Callable[[Sequence[Row[Any]]], Iterable[T]]
) -> list[T]:
    """Return the records of the rows of a query that may give tens of thousands.

    The database sends them in pages, and the event loop goes on between these: all at once would stop it for
    a tenth of a second or more.

    Args:
        reader: The database.
        query: The query.
        records_of: Returns the records of one page.
    """
    found: list[T] = []
    async with reader.connect() as connection:
        rows = await connection.stream(query.execution_options(yield_per=PAGE_ROWS))
        try:
            async for page in rows.partitions():
                found += records_of(page)
                await asyncio.sleep(0)  # the page may have been there already
        finally:
            # The rows that are left would keep the connection, which others use next, in the past. One that
            # was cut off in the middle of a page is closed already.
            if not connection.invalidated:
                await rows.close()
    return found


@contextmanager
def damaged_row(what: str) -> Iterator[None]:
    """Raise StorageDamaged for values in this block that cannot be parsed."""
    try:
        yield
    except (msgspec.MsgspecError, ValueError, TypeError):
        raise StorageDamaged(
            f"The database's row of {what} is damaged; restore database and blobs of one moment's backup."
        ) from None


def readable(
    rows: Iterable[Row[Any]],
    read: Callable[[Row[Any]], T],
    task_of: Callable[[Row[Any]], TaskName],
    unreadable: list[UnreadableRow] | None,
) -> Iterator[T]:
    """Yield the records of the rows that can be read.

    Args:
        rows: Rows of tasks or rounds.
        read: Returns the record of a row, or raises StorageDamaged.
        task_of: Returns the name of a row's task.
        unreadable: A list that damaged rows are added to; None raises StorageDamaged instead.
    """
    for row in rows:
        try:
            record = read(row)
        except StorageDamaged as error:
            if unreadable is None:
                raise
            unreadable.append(UnreadableRow(task_of(row), error))
        else:
            yield record
