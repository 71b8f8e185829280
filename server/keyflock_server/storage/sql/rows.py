"""Rows whose content is damaged: each is reported by its name, and the other rows are still read."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.storage.errors import StorageDamaged, UnreadableRow

T = TypeVar("T")


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
