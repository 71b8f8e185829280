"""The interface to the counts of verdicts on reports."""

from collections.abc import Mapping
from typing import Protocol

from keyflock_server.protocol.identifiers import RoundId, TaskName


class VerdictRepository(Protocol):
    """Counts of verdicts, by round."""

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        """Add to the counts of verdicts; other processes may add at the same time."""
        ...

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        """Return the counts of verdicts of the task's rounds, or of one; rounds without any are left out."""
        ...
