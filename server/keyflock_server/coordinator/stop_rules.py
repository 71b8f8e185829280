"""Whether the evaluations of a population's versions end a task that trains, as its ``[stop_when]`` says."""

from datetime import datetime
from typing import Final

from msgspec import UNSET

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.releases.paired_sums import PairedSums
from keyflock_server.rounds.stopping import StopDecision, stop_decision
from keyflock_server.rounds.task import TaskSpec

#: Number of newest evaluations that are read; what was measured before them does not count any more.
_MAX_EVALUATIONS: Final = 1_000


class StopRules:
    """Decides by the stored evaluations, so that every process decides the same."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def decision(self, spec: TaskSpec, created_at: datetime) -> StopDecision | None:
        """Return whether a task ends now; None for one without ``[stop_when]``.

        Args:
            spec: The task.
            created_at: When it was created; earlier evaluations do not count.
        """
        policy = spec.stop_when
        if policy is UNSET:
            return None
        found = await self._deps.store.evaluations.list_since(spec.population, created_at, _MAX_EVALUATIONS)
        values = []
        for record in found:
            sums = PairedSums.from_json(record.sums_json)
            if (metric := sums.metrics.get(policy.metric)) is not None and sums.users:
                values.append(metric.candidate / sums.users)
        return stop_decision(policy, values)

    async def reason_to_end(self, spec: TaskSpec) -> str:
        """Return why the task ends now; empty if it goes on."""
        task = None if spec.stop_when is UNSET else await self._deps.store.tasks.get(spec.name)
        decision = None if task is None else await self.decision(spec, task.created_at)
        return decision.reason if decision is not None and decision.ends else ""
