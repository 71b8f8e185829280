"""The interface to the summed metrics of ``evaluate`` rounds, which ``RoundRepository`` stores."""

from datetime import datetime
from typing import Protocol

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
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

    async def list_since(
        self, population: PopulationName, since: datetime, limit: int
    ) -> list[EvaluationRecord]:
        """Return a population's newest metrics of rounds that closed after an instant, oldest first."""
        ...

    async def has_counted(
        self,
        population: PopulationName,
        candidate: ModelVersion,
        baseline: ModelVersion,
        device: DeviceId,
    ) -> bool:
        """Return whether a report of this device is in the metrics of a round that compared the two versions.

        A round that is open, or ended without metrics, does not count.
        """
        ...

    async def list_by_task(self, task: TaskName, limit: int) -> list[EvaluationRecord]:
        """Return the metrics of a task's newest rounds, newest first."""
        ...
