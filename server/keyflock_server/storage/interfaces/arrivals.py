"""The interface to counts of check-ins by the hour."""

from collections.abc import Sequence
from typing import Protocol

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.availability import ArrivalCount


class ArrivalRepository(Protocol):
    """Stores counts of check-ins by task and hour, over all phones."""

    async def add(self, counts: Sequence[ArrivalCount]) -> None:
        """Add to the counts; other processes may add at the same time."""
        ...

    async def since(self, task: TaskName, hour: int) -> list[ArrivalCount]:
        """Return the task's counts from this hour on, oldest first."""
        ...

    async def prune(self, hour: int) -> None:
        """Delete all counts before this hour."""
        ...
