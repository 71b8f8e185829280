"""The verdict counter tells metrics each verdict at once, and counts it by round.

A report that was clipped and accepted again after a crash is counted again.
"""

from collections.abc import Mapping

from keyflock_server.aggregation.verdicts import Verdict
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.round_counter import RoundCounter
from keyflock_server.protocol.identifiers import RoundId, TaskName


class VerdictCounter:
    """Counts verdicts."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._counts = RoundCounter(deps.store.verdicts)

    def add(self, task: TaskName, round_id: RoundId, counts: Mapping[Verdict, int]) -> None:
        """Add these counts of a round's verdicts."""
        for verdict, count in counts.items():
            self._deps.observer.verdict(task, verdict, count)
            self._counts.add(round_id, verdict.value, count)

    async def write(self) -> None:
        """Add the counts to the rows; an error loses nothing, and the next pass tries again."""
        await self._counts.write()
