"""The summed metrics of ``evaluate`` rounds in SQL."""

from datetime import datetime

from sqlalchemy import Select, exists, select
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import AssignmentState
from keyflock_server.storage.tables import assignments, evaluations, rounds


class SqlEvaluationRepository:
    """Implements ``EvaluationRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine) -> None:
        self._reader = reader

    async def get(self, round_id: RoundId) -> EvaluationRecord | None:
        """Return the metrics of this round, or None."""
        found = await self._list(select(evaluations).where(evaluations.c.round_id == round_id))
        return found[0] if found else None

    async def list_by_candidate(
        self, population: PopulationName, candidate: ModelVersion
    ) -> list[EvaluationRecord]:
        """Return the metrics of all rounds that scored this version, oldest first."""
        mine = (evaluations.c.population == population) & (evaluations.c.candidate == candidate)
        query = select(evaluations).where(mine).order_by(evaluations.c.at, evaluations.c.round_id)
        return await self._list(query)

    async def list_since(
        self, population: PopulationName, since: datetime, limit: int
    ) -> list[EvaluationRecord]:
        """Return a population's newest metrics of rounds that closed after an instant, oldest first."""
        mine = (evaluations.c.population == population) & (evaluations.c.at > since)
        newest = select(evaluations).where(mine)
        newest = newest.order_by(evaluations.c.at.desc(), evaluations.c.round_id.desc()).limit(limit)
        return (await self._list(newest))[::-1]

    async def has_counted(
        self,
        population: PopulationName,
        candidate: ModelVersion,
        baseline: ModelVersion,
        device: DeviceId,
    ) -> bool:
        """Return whether a report of this device is in the metrics of a round that compared these."""
        # A join might begin with all evaluations of the two.
        is_in_one = exists().where(
            evaluations.c.round_id == assignments.c.round_id,
            evaluations.c.population == population,
            evaluations.c.candidate == candidate,
            evaluations.c.baseline == baseline,
        )
        query = select(assignments.c.id).where(
            assignments.c.device == device,
            assignments.c.state == AssignmentState.COUNTED,
            is_in_one,
        )
        async with self._reader.connect() as connection:
            return (await connection.execute(query.limit(1))).first() is not None

    async def list_by_task(self, task: TaskName, limit: int) -> list[EvaluationRecord]:
        """Return the metrics of a task's newest rounds, newest first."""
        query = select(evaluations).join(rounds).where(rounds.c.task == task)
        return await self._list(query.order_by(rounds.c.sequence.desc()).limit(limit))

    async def _list(self, query: Select[tuple[object, ...]]) -> list[EvaluationRecord]:
        async with self._reader.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [EvaluationRecord(**row._mapping) for row in rows]  # noqa: SLF001 - the documented name
