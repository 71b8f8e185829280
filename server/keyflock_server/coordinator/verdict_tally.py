"""Counts of what was said of reports, on their way into the store.

Metrics hear of each at once; the rows get increments, once a pass and before a process stops, never a write
a report. What a killed process had not written yet, less than a pass's worth, is missing from the rows; a
report that was clipped and taken in again after the crash is counted again. No aggregate depends on them.
"""

from collections import Counter
from collections.abc import Mapping

from keyflock_server.aggregation.verdicts import Verdict
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import RoundId, TaskName


class VerdictTally:
    """Counts since the last write."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._counts: dict[RoundId, Counter[str]] = {}

    def note(self, task: TaskName, round_id: RoundId, counts: Mapping[Verdict, int]) -> None:
        """So many more of each."""
        for verdict, count in counts.items():
            self._world.observer.verdict(task, verdict, count)
            self._counts.setdefault(round_id, Counter())[verdict.value] += count

    async def write(self) -> None:
        """Add what was counted to the rows; on an error nothing is lost, and the next pass tries again."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._world.store.rounds.add_verdicts(counts)
        except BaseException:
            for round_id, more in counts.items():
                self._counts.setdefault(round_id, Counter()).update(more)
            raise
