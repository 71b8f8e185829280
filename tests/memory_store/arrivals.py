"""Counts of check-ins in memory."""

from collections.abc import Sequence
from dataclasses import replace

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.availability import ArrivalCount


class MemoryArrivalRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, counts: Sequence[ArrivalCount]) -> None:
        """Add to the counts."""
        for count in counts:
            there = self._rows.arrivals.get((count.task, count.hour))
            self._rows.arrivals[count.task, count.hour] = (
                count
                if there is None
                else replace(
                    there,
                    check_ins=there.check_ins + count.check_ins,
                    eligible=there.eligible + count.eligible,
                )
            )

    async def since(self, task: TaskName, hour: int) -> list[ArrivalCount]:
        """Return the task's counts from this hour on, oldest first."""
        mine = [one for one in self._rows.arrivals.values() if one.task == task and one.hour >= hour]
        return sorted(mine, key=lambda one: one.hour)

    async def prune(self, hour: int) -> None:
        """Delete all counts before this hour."""
        for key in [key for key in self._rows.arrivals if key[1] < hour]:
            del self._rows.arrivals[key]
