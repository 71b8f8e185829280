"""The interface to the summed metrics of ``evaluate`` rounds, which ``RoundRepository`` stores."""

from typing import Protocol

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.storage.operator_records import EvaluationRecord


class EvaluationRepository(Protocol):
    """Reads the summed metrics of closed ``evaluate`` rounds."""

    async def get(self, round_id: RoundId) -> EvaluationRecord | None:
        """Return the metrics of this round, or None."""
        ...

    async def list_by_candidate(
        self, population: PopulationName, candidate: ModelVersion
    ) -> list[EvaluationRecord]:
        """Return the metrics of all rounds that scored this version, oldest first."""
        ...

    async def list_by_task(self, task: TaskName, limit: int) -> list[EvaluationRecord]:
        """Return the metrics of a task's newest rounds, newest first."""
        ...
