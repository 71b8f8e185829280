"""A bounded memory of the newest entries: two generations, of which the older is dropped as a whole.

It holds any number of devices in a fixed space, and every operation takes the same short time. A key is
stored as its hash, which takes half the space of an id; two of a million devices share one with a probability
of one in a million.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class RecentEntries(Generic[V]):
    """Remembers the newest entries: at least ``capacity`` of them, and at most twice as many.

    Args:
        capacity: Number of entries after which a new generation begins. > 0.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._newer: dict[int, V] = {}
        self._older: dict[int, V] = {}

    def __len__(self) -> int:
        """Return the number of entries; one that was written in both generations counts twice."""
        return len(self._newer) + len(self._older)

    def get(self, key: Hashable) -> V | None:
        """Return the entry of this key, or None if there is none or it was dropped."""
        hashed = hash(key)
        found = self._newer.get(hashed)
        return self._older.get(hashed) if found is None else found

    def put(self, key: Hashable, entry: V) -> None:
        """Remember an entry, in place of an earlier one of the same key."""
        hashed = hash(key)
        if len(self._newer) >= self._capacity and hashed not in self._newer:
            self._newer, self._older = {}, self._newer
        self._newer[hashed] = entry

    def pop(self, key: Hashable) -> None:
        """Forget the entry of this key, if there is one."""
        hashed = hash(key)
        self._newer.pop(hashed, None)
        self._older.pop(hashed, None)

    def clear(self) -> None:
        """Forget all entries."""
        self._newer, self._older = {}, {}
