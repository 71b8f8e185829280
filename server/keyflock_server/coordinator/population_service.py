"""The population service answers operators' calls about populations."""

from keyflock_server.coordinator.cohort_preview import preview_cohort
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.rollback import RollbackService
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.views import population_view
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator import CohortPreview, PopulationView, RollbackOrder
from keyflock_server.storage.records import PopulationRecord


class PopulationService:
    """Creates, rolls back and shows populations for operators."""

    def __init__(
        self, deps: Dependencies, registry: TaskRegistry, models: ModelStore, rounds: RoundDriver
    ) -> None:
        self._deps = deps
        self._registry = registry
        self._models = models
        self._rollbacks = RollbackService(deps, models, rounds)

    async def create(self, name: PopulationName, checkpoint: bytes) -> PopulationView:
        """Create a population whose version 0 is this checkpoint."""
        return population_view(await self._models.create_population(name, checkpoint), devices=0)

    async def all(self) -> list[PopulationView]:
        """Return all populations, ordered by name."""
        return [await self._view(record) for record in await self._deps.store.populations.all()]

    async def roll_back(self, name: PopulationName, order: RollbackOrder) -> PopulationView:
        """Publish an earlier version anew as the newest, and withdraw those between."""
        await self._rollbacks.roll_back(name, order.to, order.reason)
        await self._registry.sync()
        return await self._view(await self._models.population(name))

    async def preview_cohort(self, name: PopulationName, expression: str) -> CohortPreview:
        """Return how many of a population's devices an expression fits."""
        await self._models.population(name)
        tasks = await self._deps.store.tasks.all([])
        slots = sum(task.spec.round.slots for task in tasks if task.spec.population == name)
        return await preview_cohort(self._deps, name, expression, slots)

    async def _view(self, record: PopulationRecord) -> PopulationView:
        return population_view(record, await self._deps.store.devices.count(record.name))
