"""Rows whose content is damaged: each is told by its name, and those beside it are read all the same."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.storage.door import StorageDamaged, UnreadableRow

T = TypeVar("T")


@contextmanager
def damage_of(what: str) -> Iterator[None]:
    """Within it, a value that was never written so raises StorageDamaged."""
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
    """What the rows hold.

    Args:
        rows: Of tasks or rounds.
        read: Makes a record of a row, or raises StorageDamaged.
        task_of: The task that a row is of.
        unreadable: Takes what cannot be read; None: that is raised.
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
