"""The round counter collects counts of one kind by round, and writes them to the store in groups.

Rows get increments once a pass and before a process stops, never one write for each report or failure. They
miss what a killed process had not written yet, less than a pass's worth. No aggregate depends on them.
"""

from collections import Counter

from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.storage.interfaces.round_counts import RoundCountRepository


class RoundCounter:
    """Counts since the last write.

    Args:
        rows: Where the counts are written.
    """

    def __init__(self, rows: RoundCountRepository) -> None:
        self._rows = rows
        self._counts: dict[RoundId, Counter[str]] = {}

    def add(self, round_id: RoundId, name: str, count: int = 1) -> None:
        """Add to a round's count of this name."""
        self._counts.setdefault(round_id, Counter())[name] += count

    async def write(self) -> None:
        """Add the counts to the rows; an error loses nothing, and the next pass tries again."""
        counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            await self._rows.add(counts)
        except BaseException:
            for round_id, more in counts.items():
                self._counts.setdefault(round_id, Counter()).update(more)
            raise
