"""The task service answers operators' calls about tasks and their rounds, also those that are over."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from keyflock_compression import SpecError
from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.held_rounds import HeldRounds
from keyflock_server.coordinator.model_store import ModelStore, archived_detail
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.round_endings import RoundEndings
from keyflock_server.coordinator.round_opening import RoundOpening
from keyflock_server.coordinator.stop_rules import StopRules
from keyflock_server.coordinator.task_addresses import TaskAddresses
from keyflock_server.coordinator.task_forecasts import codec_problems
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import TaskState, waiting_reason
from keyflock_server.coordinator.views import round_view, task_view
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator.tasks import TaskView
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.stored_task import with_ids
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.rounds.task_changes import with_changes
from keyflock_server.rounds.task_validation import TaskError
from keyflock_server.storage.interfaces.tasks import TaskChanges
from keyflock_server.storage.records import PopulationRecord, RoundRecord, TaskRecord

#: Attempts of a change while others change the same task.
_ATTEMPTS: Final = 3


class TaskService:
    """Creates, changes and shows tasks for operators."""

    def __init__(
        self,
        deps: Dependencies,
        registry: TaskRegistry,
        models: ModelStore,
        scales: TaskScales,
        rounds: RoundDriver,
        opening: RoundOpening,
        endings: RoundEndings,
    ) -> None:
        self._deps = deps
        self._opening = opening
        self._endings = endings
        self._registry = registry
        self._models = models
        self._scales = scales
        self._rounds = rounds
        self._held = HeldRounds(deps, registry, rounds)
        self._stop_rules = StopRules(deps)
        self._addresses = TaskAddresses(deps)

    async def create(self, spec: TaskSpec, *, audit: AuditContext) -> TaskView:
        """Create a task; its first round opens with the next pass.

        Raises:
            ApiError: ``population_unknown``; ``conflict`` when a task of this name is not over, or when the
                task would personalise a population that an unfinished task personalises already: each would
                forget the other's candidates, or when it disagrees with another on what keyboards serve.
                Tasks that train share a population; each steps from the newest version. ``invalid_task`` when
                its codec names rows that the population's model does not have.
        """
        population = await self._models.population(await self._models.resolve(spec.population))
        if population.archived_at is not None:
            raise ApiError(ProblemCode.CONFLICT, archived_detail(population.shown_name))
        spec = with_ids(spec, spec.name, population.name)
        layout = await self._models.report_layout(spec)
        if problems := codec_problems(spec, layout):
            raise ApiError(ProblemCode.INVALID_TASK, " ".join(problems), problems=tuple(problems))
        try:
            scales = await self._scales.initial_scales(spec)
        except SpecError as error:
            raise ApiError(ProblemCode.INVALID_TASK, f"{error}") from None
        record = await self._registry.create(spec, scales, audit)
        if spec.round.is_unsafe_flush:
            self._deps.observer.unsafe_flush(record.name, spec.round.min_flush_clients)
        return task_view(record, population, {}, address=await self._addresses.address(record.name))

    async def get(self, name: str) -> TaskView:
        """Return the newest task of this name, or with ``name~1`` the first; raises ``task_unknown``."""
        record = await self._record(await self._addresses.find(name))
        return await self._view(record, await self._models.population(record.spec.population))

    async def _view(self, record: TaskRecord, population: PopulationRecord) -> TaskView:
        name = record.name
        phases = await self._deps.store.rounds.phases(name)
        held = await self._deps.store.listings.held_rounds([name]) if Phase.HELD in phases else {}
        address = await self._addresses.address(name)
        return await self.view(record, population, phases, held.get(name), address)

    async def view(
        self,
        record: TaskRecord,
        population: PopulationRecord,
        phases: Mapping[Phase, int],
        held_round: RoundId | None,
        address: str,
    ) -> TaskView:
        """Return a task's view, given the number of its rounds in each phase, its held round and address."""
        state = self._registry.known(record.name)
        reason = waiting_reason(state)
        if record.status is TaskStatus.ACTIVE and (state is None or state.open_round is None):
            reason = await self._opening.waiting_reason(record.spec, self._registry.unfinished_rounds)
        decision = await self._stop_rules.decision(record.spec, record.created_at)
        stopping = "" if decision is None else decision.reason
        return task_view(record, population, phases, held_round, reason, stopping, address=address)

    async def pause(self, name: str, *, until: datetime | None = None, audit: AuditContext) -> TaskView:
        """Assign no more work; reports under way are still accepted. The last pause's reason and end hold.

        Args:
            name: The task.
            until: When it resumes by itself; None: when somebody resumes it.
            audit: Who pauses it and why.
        Raises:
            ApiError: ``task_unknown``; ``conflict`` for a task that is over, or an end that has passed.
        """
        if until is not None and until <= self._deps.clock():
            raise ApiError(ProblemCode.CONFLICT, "until has passed: the pause would be over at once.")
        changes = TaskChanges(status=TaskStatus.PAUSED, pause_reason=audit.reason, resumes_at=until)
        await self._registry.change(await self._addresses.find(name), changes, audit)
        return await self.get(name)

    async def change(self, name: str, values: Mapping[str, Any], *, audit: AuditContext) -> TaskView:
        """Change ``[round]`` of a task for its next rounds; the open one keeps what it opened with.

        Args:
            name: The task.
            values: As in ``with_changes``.
            audit: Who changes it and why.
        Raises:
            ApiError: ``task_unknown``; ``conflict`` for a task that is over; ``invalid_task`` when it could
                not run with these values; ``precondition_failed`` when it has another revision than the
                change was decided on, or changes again and again meanwhile.
        """
        id_ = await self._addresses.find(name)
        for attempt in range(_ATTEMPTS):
            record = await self._record(id_)
            try:
                spec = with_changes(record.spec, values)
            except TaskError as error:
                raise ApiError(ProblemCode.INVALID_TASK, str(error), problems=error.problems) from None
            decided = replace(audit, revision=audit.revision or str(record.revision))
            is_last = attempt == _ATTEMPTS - 1 or audit.revision is not None
            try:
                await self._registry.change(id_, TaskChanges(spec=spec), decided)
            except ApiError as error:
                if error.code is not ProblemCode.PRECONDITION_FAILED or is_last:
                    raise
            else:
                break
        return await self.get(name)

    async def set_archived(self, name: str, *, is_archived: bool, audit: AuditContext) -> TaskView:
        """Take a task that is over out of the ordinary list, or put it back; repeating it is no error.

        Raises:
            ApiError: ``task_unknown``; ``conflict`` for a task that is not over; ``precondition_failed`` when
                it has another revision than this was decided on.
        """
        record = await self._record(await self._addresses.find(name))
        if is_archived and not record.status.is_over:
            detail = f"Task {name!r} is {record.status}; cancel it first."
            raise ApiError(ProblemCode.CONFLICT, detail)
        since = record.archived_at or audit.at
        await self._registry.change(
            record.name, TaskChanges(archived_at=since if is_archived else None), audit
        )
        return await self.get(name)

    async def revision(self, name: str) -> int:
        """Return the task's present revision."""
        return (await self._record(await self._addresses.find(name))).revision

    async def _record(self, id_: TaskName) -> TaskRecord:
        record = await self._deps.store.tasks.get(id_)
        if record is None:
            raise ApiError(ProblemCode.TASK_UNKNOWN, "There is no such task here.")
        return record

    async def resume(self, name: str, *, audit: AuditContext) -> TaskView:
        """Assign work again. An active task stays active."""
        await self._registry.set_status(await self._addresses.find(name), TaskStatus.ACTIVE, audit)
        return await self.get(name)

    async def cancel(self, name: str, *, audit: AuditContext) -> TaskView:
        """End the task for good; its open round is cancelled, its version stays. Repeating it is no error."""
        state = await self._registry.set_status(await self._addresses.find(name), TaskStatus.CANCELLED, audit)
        view = await self.get(name)
        await self._rounds.cancel(state)
        return view

    async def round(self, round_id: RoundId) -> RoundView:
        """Return one round; raises ApiError ``not_found``."""
        record = await self._deps.store.rounds.get(round_id)
        if record is None:
            raise ApiError(ProblemCode.NOT_FOUND, "There is no such round here.")
        verdicts = await self._deps.store.verdicts.list_by_task(record.round.task, round_id)
        population = await self._models.population(record.round.population)
        state = await self._registry.get(record.round.task)
        address = await self._addresses.address(record.round.task)
        return _round_view(record, population, verdicts, state, address)

    async def close_round(self, round_id: RoundId, *, audit: AuditContext) -> RoundView:
        """Let a collecting round close now, with what it has."""
        await self._endings.close(round_id, audit)
        return await self.round(round_id)

    async def abandon_round(self, round_id: RoundId, *, drops: bool, audit: AuditContext) -> RoundView:
        """End a collecting round now, without a result."""
        await self._endings.abandon(round_id, audit, drops=drops)
        return await self.round(round_id)

    async def accept_round(self, round_id: RoundId, *, audit: AuditContext) -> RoundView:
        """Let the next pass publish what a held round made."""
        await self._held.accept(round_id, audit)
        return await self.round(round_id)

    async def discard_round(self, round_id: RoundId, *, audit: AuditContext) -> RoundView:
        """Discard the reports of a held round's phones."""
        await self._held.discard(round_id, audit)
        return await self.round(round_id)


def _round_view(
    record: RoundRecord,
    population: PopulationRecord,
    verdicts: Mapping[RoundId, Mapping[str, int]],
    state: TaskState,
    address: str,
) -> RoundView:
    found = verdicts.get(record.round.id, {})
    reason = waiting_reason(state, record.round.id)
    return round_view(record, population, found, state.last_error, reason, task=address)
