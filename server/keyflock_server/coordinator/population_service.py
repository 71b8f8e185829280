"""The population service answers operators' calls about populations, by any name that means them."""

import contextlib

import msgspec

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.cohort_preview import preview_cohort
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore, population_unknown
from keyflock_server.coordinator.population_deletion import PopulationDeletion
from keyflock_server.coordinator.release_policies import ReleasePolicies
from keyflock_server.coordinator.rollback import RollbackService
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.views import population_view
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.populations import (
    CohortPreview,
    DeletionOrder,
    PopulationDeleted,
    PopulationView,
    RenameOrder,
    RollbackOrder,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, StorageError
from keyflock_server.storage.interfaces.populations import PopulationChanges
from keyflock_server.storage.records import PopulationRecord


class PopulationService:
    """Creates, renames, rolls back, deletes and shows populations for operators."""

    def __init__(
        self,
        deps: Dependencies,
        registry: TaskRegistry,
        models: ModelStore,
        rounds: RoundDriver,
        deletion: PopulationDeletion,
        release_policies: ReleasePolicies,
    ) -> None:
        self._deps = deps
        self._registry = registry
        self._models = models
        self._rollbacks = RollbackService(deps, models, rounds)
        self._deletion = deletion
        self._release_policies = release_policies

    async def create(self, name: PopulationName, checkpoint: bytes, *, audit: AuditContext) -> PopulationView:
        """Create a population whose version 0 is this checkpoint."""
        return await self._view(await self._models.create_population(name, checkpoint, audit=audit))

    async def rename(
        self, name: PopulationName, order: RenameOrder, *, audit: AuditContext
    ) -> PopulationView:
        """Give a population another name; those that it had are former names, and mean it for ever.

        Raises:
            ApiError: ``population_unknown``; ``conflict`` when another population has, or had, this name.
        """
        id_ = await self._models.resolve(name)
        try:
            await self._deps.store.populations.rename(id_, PopulationName(order.to), audit=audit)
        except PopulationGone:
            raise population_unknown() from None
        except AlreadyExists:
            detail = f"Another population has, or once had, the name {order.to!r}; choose another name."
            raise ApiError(ProblemCode.CONFLICT, detail) from None
        return await self._view(await self._models.population(id_))

    async def set_archived(
        self, name: PopulationName, *, is_archived: bool, audit: AuditContext
    ) -> PopulationView:
        """Take a population out of use, or put it back; repeating it is no error.

        An archived one takes no new devices and no new tasks. Those that are enrolled keep their model, their
        personal models and the right to be forgotten; nothing is deleted.

        Raises:
            ApiError: ``population_unknown``; ``conflict`` while a task of it is not over.
            Superseded: it has another revision than this was decided on.
        """
        id_ = await self._models.resolve(name)
        record = await self._models.population(id_)
        live = [state.task for state in self._registry.in_population(id_) if not state.status.is_over]
        if is_archived and live:
            detail = f"Population {name!r} has tasks that are not over: {', '.join(live)}. Cancel them first."
            raise ApiError(ProblemCode.CONFLICT, detail)
        since = record.archived_at or audit.at
        changes = PopulationChanges(archived_at=since if is_archived else None)
        try:
            record = await self._deps.store.populations.change(id_, changes, audit=audit)
        except PopulationGone:
            raise population_unknown() from None
        self._models.forget_rows()
        return await self._view(record)

    async def revision(self, name: PopulationName) -> int:
        """Return the population's present revision."""
        return (await self._models.population(await self._models.resolve(name))).revision

    async def delete(
        self, name: PopulationName, order: DeletionOrder, *, audit: AuditContext
    ) -> PopulationDeleted:
        """Delete a population with its devices, personal models, rounds, tasks and versions.

        Raises:
            ApiError: ``conflict`` when the order does not repeat the name, or while a task of it is not over;
                ``population_unknown``. Nothing was deleted.
        """
        if order.confirm != name:
            detail = "confirm is not the population's name as in the address: nothing was deleted."
            raise ApiError(ProblemCode.CONFLICT, detail)
        id_ = await self._models.resolve(name)
        return PopulationDeleted(name=name, id=id_, is_complete=await self._deletion.delete(id_, audit))

    async def roll_back(
        self, name: PopulationName, order: RollbackOrder, *, audit: AuditContext
    ) -> PopulationView:
        """Publish an earlier version anew as the newest, and withdraw those between."""
        id_ = await self._models.resolve(name)
        await self._rollbacks.roll_back(id_, order.to, order.reason, audit)
        await self._registry.sync()
        with contextlib.suppress(StorageError):  # the next pass does it
            await self._release_policies.apply()
        return await self._view(await self._models.population(id_))

    async def preview_cohort(self, name: PopulationName, expression: str) -> CohortPreview:
        """Return how many of a population's devices an expression fits."""
        id_ = await self._models.resolve(name)
        tasks = await self._deps.store.tasks.all([])
        slots = sum(task.spec.round.slots for task in tasks if task.spec.population == id_)
        preview = await preview_cohort(self._deps, id_, expression, slots)
        return msgspec.structs.replace(preview, population=name)

    async def _view(self, record: PopulationRecord) -> PopulationView:
        store = self._deps.store
        return population_view(
            record, await store.devices.count(record.name), await store.populations.names(record.name)
        )
