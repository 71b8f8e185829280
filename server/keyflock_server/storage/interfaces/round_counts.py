"""The interface to what is counted by round: verdicts on reports, and causes of failure that phones gave."""

from collections.abc import Mapping
from typing import Protocol

from keyflock_server.protocol.identifiers import RoundId, TaskName


class RoundCountRepository(Protocol):
    """Counts of one kind, such as verdicts, by round and name."""

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """Add to the counts; other processes may add at the same time."""
        ...

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """Return the counts of the task's rounds, or of one of them; rounds without any are left out."""
        ...
