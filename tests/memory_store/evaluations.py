"""The summed metrics of ``evaluate`` rounds in memory."""

from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import AssignmentState


class MemoryEvaluationRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def get(self, round_id: RoundId) -> EvaluationRecord | None:
        return self._rows.evaluations.get(round_id)

    async def list_by_candidate(
        self, population: PopulationName, candidate: ModelVersion
    ) -> list[EvaluationRecord]:
        mine = [
            one
            for one in self._rows.evaluations.values()
            if one.population == population and one.candidate == candidate
        ]
        return sorted(mine, key=lambda one: (one.at, one.round_id))

    async def list_since(
        self, population: PopulationName, since: datetime, limit: int
    ) -> list[EvaluationRecord]:
        mine = [
            one for one in self._rows.evaluations.values() if one.population == population and one.at > since
        ]
        return sorted(mine, key=lambda one: (one.at, one.round_id))[-limit:]

    async def has_counted(
        self,
        population: PopulationName,
        candidate: ModelVersion,
        baseline: ModelVersion,
        device: DeviceId,
    ) -> bool:
        pair = population, candidate, baseline
        return any(
            (one.population, one.candidate, one.baseline) == pair
            and (row := self._rows.assignments.get((one.round_id, device))) is not None
            and row.state is AssignmentState.COUNTED
            for one in self._rows.evaluations.values()
        )

    async def list_by_task(self, task: TaskName, limit: int) -> list[EvaluationRecord]:
        mine = [one for one in self._rows.evaluations.values() if one.task == task]
        rounds = self._rows.rounds
        return sorted(mine, key=lambda one: rounds[one.round_id].round.sequence, reverse=True)[:limit]
