"""The verdict counter collects the verdicts on reports and writes their counts to the store.

Metrics get each verdict at once; rows get increments once a pass and before a process stops, never one write
a report. The rows miss what a killed process had not written yet, less than a pass's worth; a report that was
clipped and accepted again after the crash is counted again. No aggregate depends on them.
"""

from collections import Counter
from collections.abc import Mapping

from keyflock_server.aggregation.verdicts import Verdict
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import RoundId, TaskName


class VerdictCounter:
    """Counts verdicts since the last write."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._counts: dict[RoundId, Counter[str]] = {}

    def add(self, task: TaskName, round_id: RoundId, counts: Mapping[Verdict, int]) -> None:
        """Add these counts of a round's verdicts."""
        for verdict, count in counts.items():
            self._deps.observer.verdict(task, verdict, count)
            self._counts.setdefault(round_id, Counter())[verdict.value] += count

    async def write(self) -> None:
        """Add the counts to the rows; an error loses nothing, and the next pass tries again."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._deps.store.verdicts.add(counts)
        except BaseException:
            for round_id, more in counts.items():
                self._counts.setdefault(round_id, Counter()).update(more)
            raise
