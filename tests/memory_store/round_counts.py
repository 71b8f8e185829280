"""What is counted by round, in memory."""

from collections.abc import Mapping

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import RoundId, TaskName


class MemoryRoundCountRepository:
    def __init__(self, rows: MemoryRows, counts: dict[RoundId, dict[str, int]]) -> None:
        self._rows = rows
        self._counts = counts

    async def add(self, counts: Mapping[RoundId, Mapping[str, int]]) -> None:
        for round_id, more in counts.items():
            mine = self._counts.setdefault(round_id, {})
            for name, count in more.items():
                mine[name] = mine.get(name, 0) + count

    async def list_by_task(
        self, task: TaskName, round_id: RoundId | None = None
    ) -> dict[RoundId, dict[str, int]]:
        mine = {record.round.id for record in self._rows.rounds.values() if record.round.task == task}
        wanted = mine if round_id is None else mine & {round_id}
        return {one: dict(found) for one, found in self._counts.items() if one in wanted}
