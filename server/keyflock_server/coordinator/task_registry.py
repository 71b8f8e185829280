"""The task registry owns the tasks that this process works on, and keeps them in step with the store.

A task is in the registry while it is not over, or has a round that is not over. A pass reads which tasks
these are, and their revisions; a task is read whole when it is new to this process, or its revision is
another one: then an operator has paused it, resumed it or changed its spec. Tasks go by their ids here:
another task of the same name has another id.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Final

from cachetools import LRUCache

from keyflock_server.audit.context import POLICY, AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.error_texts import error_text
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.task_addresses import TaskAddresses
from keyflock_server.coordinator.task_conflicts import check_conflicts
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.numbered_names import base_name, next_id
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.stored_task import with_ids
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.errors import (
    AlreadyExists,
    PopulationGone,
    StorageDamaged,
    Superseded,
    UnreadableRow,
)
from keyflock_server.storage.interfaces.tasks import LiveTask, TaskChanges
from keyflock_server.storage.records import RoundRecord, TaskRecord

#: How many tasks that are over are remembered: reports for them arrive for days.
_MAX_OVER: Final = 256


class TaskRegistry:
    """Holds the state of every task that this process works on.

    Args:
        deps: The store, the clock and the observer.
        rounds: Adopts the rounds of other processes.
    """

    def __init__(self, deps: Dependencies, rounds: RoundDriver) -> None:
        self._deps = deps
        self._rounds = rounds
        self._states: dict[TaskName, TaskState] = {}
        #: Tasks that left, for what arrives late; a task that is over stays so.
        self._over: LRUCache[TaskName, TaskState] = LRUCache(_MAX_OVER)
        #: Held while the set of tasks, or a status, changes.
        self._lock = asyncio.Lock()
        #: It grows whenever a task is added, leaves or changes its status.
        self.revision = 0
        self._statuses: dict[TaskName, TaskStatus] = {}
        #: What the last pass has read: the rounds that are not over, and the tasks that are not.
        self.unfinished_rounds: tuple[RoundRecord, ...] = ()
        self.live_tasks: frozenset[TaskName] = frozenset()
        #: The tasks by population, as of this revision.
        self._by_population: dict[PopulationName, tuple[TaskState, ...]] = {}

    def __iter__(self) -> Iterator[TaskState]:
        """Iterate over the tasks as they are now; a task may be added or leave meanwhile."""
        return iter(list(self._states.values()))

    def in_population(self, population: PopulationName) -> tuple[TaskState, ...]:
        """Return the tasks of one population."""
        known = self._by_population.get(population)
        if known is None:
            known = tuple(state for state in self._states.values() if state.spec.population == population)
            self._by_population[population] = known
        return known

    def open_round(self, name: TaskName) -> OpenRound | None:
        """Return the open round of a task that this process works on, or None."""
        state = self._states.get(name)
        return None if state is None else state.open_round

    def known(self, name: TaskName) -> TaskState | None:
        """Return a task's state if this process has one; no other has a round here, or an error."""
        return self._states.get(name) or self._over.get(name)

    async def find(self, name: TaskName) -> TaskState | None:
        """Return a task's state; a task that left the registry has one without a round.

        Edge cases:
            there is no such task, or its row is damaged -> None
        """
        if (state := self.known(name)) is not None:
            return state
        try:
            record = await self._deps.store.tasks.get(name)
        except StorageDamaged:
            return None
        if record is None:
            return None
        state = TaskState(record)
        if record.status.is_over:
            self._over[name] = state
        return state

    async def get(self, name: TaskName) -> TaskState:
        """Return a task's state as ``find`` does; raises ApiError ``task_unknown`` where there is none."""
        state = await self.find(name)
        if state is None:
            raise ApiError(ProblemCode.TASK_UNKNOWN, "There is no such task here.")
        return state

    async def create(self, spec: TaskSpec, norm_scales_json: bytes | None, audit: AuditContext) -> TaskRecord:
        """Add a new task, and return its row; its id is its name, or has a number where that was used.

        Raises:
            ApiError: ``conflict`` when a task of this name is not over, or the task disagrees with another
                one; ``population_unknown`` when the population was deleted meanwhile.
        """
        async with self._lock:
            spec = with_ids(spec, await self._free_id(spec.name), spec.population)
            check_conflicts(spec, self)
            record = TaskRecord(
                spec=spec,
                status=TaskStatus.ACTIVE,
                created_at=self._deps.clock(),
                norm_scales_json=norm_scales_json,
            )
            try:
                await self._deps.store.tasks.add(record, audit=audit)
            except AlreadyExists:
                raise _taken(base_name(spec.name), TaskStatus.ACTIVE) from None
            except PopulationGone:
                raise ApiError(
                    ProblemCode.POPULATION_UNKNOWN, "The population was deleted meanwhile."
                ) from None
            self._states[spec.name] = TaskState(record)
            self._note_changes()
        return record

    async def conflicts(self, spec: TaskSpec) -> list[str]:
        """Return why ``create`` would refuse a new task now: the details of its errors."""
        details = []
        try:
            await self._free_id(spec.name)
        except ApiError as error:
            details.append(error.detail)
        try:
            check_conflicts(spec, self)
        except ApiError as error:
            details.append(error.detail)
        return details

    async def _free_id(self, name: TaskName) -> TaskName:
        """Return the id of the next task of this name; raises ApiError ``conflict`` while one is not over."""
        used = await self._deps.store.tasks.ids_of(name)
        newest = await self._deps.store.tasks.get(used[-1]) if used else None
        if newest is not None and not newest.status.is_over:
            raise _taken(name, newest.status)
        if (id_ := next_id(name, used)) is None:
            detail = f"The name {name!r} was used before, and is too long for a number; choose another one."
            raise ApiError(ProblemCode.CONFLICT, detail)
        return id_

    async def set_status(self, name: TaskName, status: TaskStatus, audit: AuditContext) -> TaskState:
        """Write a task's status, and return its state; repeating it is no error.

        Raises:
            ApiError: ``task_unknown``; ``conflict`` for a task that is over; ``precondition_failed`` when it
                has another revision than the change was decided on.
        """
        async with self._lock:
            state = await self.get(name)
            async with state.round_lock:
                if state.status.is_over and state.status is not status:
                    raise await self._over_error(name, state.status)
                try:
                    await self._deps.store.tasks.set_status(name, status, reason=audit.reason, audit=audit)
                except Superseded:
                    raise await self._superseded(name) from None
                state.status = status
            self._note_changes()
        return state

    async def change(self, name: TaskName, changes: TaskChanges, audit: AuditContext) -> TaskState:
        """Change a task that is not over, and return its state; the next round opens with a changed spec.

        Raises:
            ApiError: ``task_unknown``; ``conflict`` for a task that is over; ``precondition_failed`` when it
                has another revision than the change was decided on. Nothing was changed.
        """
        async with self._lock:
            state = await self.get(name)
            async with state.round_lock:
                try:
                    record = await self._deps.store.tasks.change(name, changes, audit=audit)
                except Superseded:
                    raise await self._superseded(name) from None
                state.adopt(record)
            self._note_changes()
        return state

    async def _superseded(self, name: TaskName) -> ApiError:
        record = await self._deps.store.tasks.get(name)
        if record is None:
            return ApiError(ProblemCode.TASK_UNKNOWN, "There is no such task here.")
        if record.status.is_over:
            return await self._over_error(name, record.status)
        detail = f"The task is at revision {record.revision} now: read it again, and decide anew."
        return ApiError(ProblemCode.PRECONDITION_FAILED, detail)

    async def _over_error(self, name: TaskName, status: TaskStatus) -> ApiError:
        address = await TaskAddresses(self._deps).address(name)
        return ApiError(ProblemCode.CONFLICT, f"Task {address!r} is {status}; create a new one.")

    async def resume_due(self) -> None:
        """Resume the tasks whose pause has come to its end; the leader does so at each pass."""
        now = self._deps.clock()
        for state in self:
            ends_at = state.resumes_at
            if state.status is not TaskStatus.PAUSED or ends_at is None or now < ends_at:
                continue
            audit = AuditContext(
                operator=POLICY,
                role=POLICY,
                reason=f"The pause was to end at {ends_at.isoformat(timespec='seconds')}.",
                action="task.resume",
                at=now,
                revision=str(state.revision),
            )
            changes = TaskChanges(status=TaskStatus.ACTIVE, pause_reason="", resumes_at=None)
            with contextlib.suppress(ApiError):  # an operator was first
                await self.change(state.task, changes, audit)

    def _note_changes(self) -> None:
        statuses = {state.task: state.status for state in self._states.values()}
        if statuses != self._statuses:
            self._statuses = statuses
            self._by_population = {}
            self.revision += 1

    async def sync(self, only: TaskName | None = None) -> None:
        """Bring every task to its state in the store, whichever process made or changed it.

        A damaged row keeps its task as it is, and no other; it is reported to the observer at every call.

        Args:
            only: Bring this task alone to its state: another one may be closing a round, which takes long.
        """
        async with self._lock:
            damaged: list[UnreadableRow] = []
            # A task may have several, left by releases that could open two at once: the oldest is taken.
            rounds = await self._deps.store.rounds.unfinished(damaged)
            unfinished = {record.round.task: record for record in reversed(rounds)}
            held = sum(record.round.phase is Phase.HELD for record in unfinished.values())
            self._deps.observer.rounds_waiting(held)
            live = await self._deps.store.tasks.live(damaged)
            self.unfinished_rounds, self.live_tasks = tuple(rounds), frozenset(live)
            errors = {row.task: row.error for row in damaged}
            known = dict.fromkeys([*live, *unfinished, *errors, *self._states])
            try:
                for name in known if only is None else known.keys() & {only}:
                    await self._sync_task(name, live.get(name), unfinished.get(name), errors.get(name))
            finally:
                self._note_changes()

    async def _sync_task(
        self,
        name: TaskName,
        live: LiveTask | None,
        unfinished: RoundRecord | None,
        error: StorageDamaged | None,
    ) -> None:
        state, status = self._states.get(name), None if live is None else live.status
        if _is_out_of_date(state, live):
            # The task is new to this process, has changed, or is over since the last pass.
            try:
                record = await self._deps.store.tasks.get(name)
            except StorageDamaged as damage:
                error = damage
            else:
                if record is not None:
                    status = record.status
                    if state is None:
                        state = self._states[name] = TaskState(record)
                    # Its status is taken over together with its round.
                    state.adopt(record, status=state.status)
                else:
                    # It went with its population; one that this process knew was cancelled or finished first.
                    status = TaskStatus.CANCELLED
        if error is None and state is not None:
            state.is_unreadable = False
            try:
                await self._rounds.sync(state, status or state.status, unfinished)
            except StorageDamaged as damage:
                error = damage
            else:
                if state.status.is_over and state.open_round is None:
                    self._over[name] = self._states.pop(name)
        if error is not None:
            if state is not None:
                state.is_unreadable = True
                state.last_error = error_text(error)
            self._deps.observer.task_stuck(name, error)


def _is_out_of_date(state: TaskState | None, live: LiveTask | None) -> bool:
    if state is None:
        return True
    return not state.status.is_over if live is None else live.revision != state.revision


def _taken(name: str, status: TaskStatus) -> ApiError:
    return ApiError(
        ProblemCode.CONFLICT,
        f"There is a task {name!r} already, which is {status}; cancel it first, or choose another name.",
    )
