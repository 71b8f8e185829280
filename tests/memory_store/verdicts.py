"""Counts of verdicts in memory."""

from collections.abc import Mapping

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import RoundId, TaskName


class MemoryVerdictRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        for round_id, more in counts.items():
            mine = self._rows.verdicts.setdefault(round_id, {})
            for verdict, count in more.items():
                mine[verdict] = mine.get(verdict, 0) + count

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        mine = {record.round.id for record in self._rows.rounds.values() if record.round.task == task}
        wanted = mine if round_id is None else mine & {round_id}
        return {one: dict(found) for one, found in self._rows.verdicts.items() if one in wanted}
