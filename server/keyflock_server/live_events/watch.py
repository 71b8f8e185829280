"""The watch finds at each pass what has happened since the last one, and publishes it.

Rounds, versions and finished tasks are found in the rows that the task registry reads at each pass anyway;
what operators, policies and the gate change is found in the audit log. So every process tells the same,
whichever process has done it, and nothing is told before it is durable.

What is told of a round is read before any of it is told. So a pass that fails tells nothing twice, and a row
that is damaged is left out, and no other one.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cachetools import FIFOCache

from keyflock_server.audit.entry import AuditEntry
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.task_addresses import TaskAddresses
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.live_events.hub import EventHub
from keyflock_server.live_events.recorder import EventRecorder, ProcessEvent
from keyflock_server.protocol.identifiers import PopulationName, RoundId, TaskName
from keyflock_server.protocol.numbered_names import base_name
from keyflock_server.protocol.operator.events import Alarm, EventKind, LiveEvent
from keyflock_server.rounds.round import Phase, Round
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import StorageDamaged, UnreadableRow
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

#: The audit log is read at most once in this interval.
_AUDIT_INTERVAL: Final = timedelta(seconds=1)
_AUDIT_ROWS: Final = 100
#: The same alarm is told again after this time.
_ALARM_INTERVAL: Final = timedelta(seconds=60)
_MAX_ALARMS: Final = 1_024
#: Rounds of one task that were opened and ended between two passes; of more, the newest are told.
_MAX_MISSED: Final = 32
#: Damaged rows that are remembered, so that each is logged and counted once.
_MAX_DAMAGED: Final = 1_024

_log: Final = logger("keyflock.live_events")


class EventWatch:
    """Publishes what has happened since the last pass; a ``Lifecycle`` behind the coordinator's.

    Args:
        deps: The store and the clock.
        registry: Has read, at each pass, the rounds and tasks that are not over.
        recorder: Has what only this process knows.
        hub: Gets the events.
        metrics: Counts the damaged rows that are left out.
    """

    def __init__(
        self,
        deps: Dependencies,
        registry: TaskRegistry,
        recorder: EventRecorder,
        hub: EventHub,
        metrics: Metrics,
    ) -> None:
        self._deps = deps
        self._registry = registry
        self._recorder = recorder
        self._hub = hub
        self._metrics = metrics
        self._addresses = TaskAddresses(deps)
        self._rounds: dict[RoundId, Round] = {}
        self._tasks: frozenset[TaskName] = frozenset()
        #: The number of each task's newest round that was told.
        self._sequences: dict[TaskName, int] = {}
        self._audited = 0
        self._audit_read_at: datetime | None = None
        self._alarms: FIFOCache[tuple[Alarm, TaskName | None], datetime] = FIFOCache(_MAX_ALARMS)
        self._damaged: FIFOCache[str, None] = FIFOCache(_MAX_DAMAGED)

    async def start(self) -> None:
        """Begin with what there is now, none of which is told."""
        self._audited = (await self._deps.store.audit.head()).sequence
        self._rounds = {record.round.id: record.round for record in self._registry.unfinished_rounds}
        self._tasks = self._registry.live_tasks
        self._sequences = {task: (await self._deps.store.rounds.count(task))[0] for task in self._tasks}

    async def tick(self) -> None:
        """Publish what has happened since the last pass."""
        await self._tell_process_events(self._recorder.taken())
        await self._tell_audit_entries()
        await self._tell_rounds()
        await self._tell_finished_tasks()

    async def stop(self) -> None:
        """End all streams."""
        self._hub.close()

    async def _tell_process_events(self, events: Iterable[ProcessEvent]) -> None:
        now = self._deps.clock()
        for event in events:
            if event.alarm is not None:
                told_at = self._alarms.get((event.alarm, event.task))
                if told_at is not None and timedelta(0) <= now - told_at < _ALARM_INTERVAL:
                    continue
                self._alarms[event.alarm, event.task] = now
            told = LiveEvent(kind=event.kind, at=now, alarm=event.alarm, is_of_this_process=True)
            await self._publish_of_task([told], event.task)

    async def _tell_audit_entries(self) -> None:
        now = self._deps.clock()
        read_at = self._audit_read_at
        if read_at is not None and timedelta(0) <= now - read_at < _AUDIT_INTERVAL:
            return
        entries, last = await self._new_entries()
        for entry in entries:
            population = None if entry.population is None else PopulationName(entry.population)
            self._hub.publish(_told_change(entry, await self._population_name(population)), population)
            self._audited = entry.sequence
        self._audited = last
        self._audit_read_at = now

    async def _new_entries(self) -> tuple[list[AuditEntry], int]:
        """Return the entries that are to be told, and the number up to which the log was looked at."""
        audit, found = self._deps.store.audit, list[AuditEntry]()
        try:
            found = await audit.ascending(self._audited, _AUDIT_ROWS)
        except StorageDamaged:
            newest = (await audit.head()).sequence
        else:
            return found, found[-1].sequence if found else self._audited
        last = min(newest, self._audited + _AUDIT_ROWS)
        for sequence in range(self._audited + 1, last + 1):
            try:
                entry = await audit.get(sequence)
            except StorageDamaged as damage:
                self._leave_out(f"audit entry {sequence}", None, damage)
            else:
                found += [] if entry is None else [entry]
        return found, last

    async def _tell_rounds(self) -> None:
        found = {record.round.id: record.round for record in self._registry.unfinished_rounds}
        for id_ in self._rounds.keys() - found.keys():
            await self._tell_end(self._rounds[id_])
            del self._rounds[id_]
        for current in sorted(found.values(), key=lambda one: one.opened_at):
            before = self._rounds.get(current.id)
            kinds = _progress(before, current)
            if before is None:
                await self._tell_missed_rounds(current.task, until=current.sequence)
                kinds = [EventKind.ROUND_OPENED, *kinds]
            await self._publish_round(kinds, current)
            self._sequences[current.task] = current.sequence
            self._rounds[current.id] = current

    async def _tell_end(self, before: Round) -> None:
        try:
            record = await self._deps.store.rounds.get(before.id)
        except StorageDamaged as damage:
            self._leave_out(before.id, before.task, damage)
            return
        if record is not None and record.round.is_over:
            await self._publish_round([*_progress(before, record.round), EventKind.ROUND_ENDED], record.round)

    async def _tell_missed_rounds(self, task: TaskName, until: int | None = None) -> None:
        """Tell the rounds that were opened and ended between two passes."""
        known = self._sequences.get(task, 0)
        if until is not None and until <= known + 1:
            return
        damaged: list[UnreadableRow] = []
        records = await self._deps.store.rounds.list_by_task(task, last=_MAX_MISSED, unreadable=damaged)
        for row in damaged:
            self._leave_out(str(row.error), row.task, row.error)
        for record in records:
            current = record.round
            if current.sequence > known and current.is_over and (until is None or current.sequence < until):
                told = [EventKind.ROUND_OPENED, *_progress(None, current), EventKind.ROUND_ENDED]
                await self._publish_round(told, current)
                self._sequences[task] = current.sequence

    def _leave_out(self, row: str, task: TaskName | None, damage: StorageDamaged) -> None:
        """Log and count a damaged row, once."""
        if row in self._damaged:
            return
        self._damaged[row] = None
        self._metrics.damaged_event_rows.inc()
        _log.error("live events leave out a damaged row", task=task, exc_info=damage)

    async def _tell_finished_tasks(self) -> None:
        live = self._registry.live_tasks
        for task in self._tasks - live:
            await self._tell_missed_rounds(task)
            state = await self._registry.find(task)
            if state is not None and state.status is TaskStatus.FINISHED:
                told = LiveEvent(kind=EventKind.TASK_FINISHED, at=self._deps.clock())
                await self._publish_of_task([told], task, state.spec.population)
            self._sequences.pop(task, None)
            self._tasks -= {task}
        self._tasks = live

    async def _publish_round(self, kinds: Sequence[EventKind], current: Round) -> None:
        events = []
        for kind in kinds:
            told = LiveEvent(kind=kind, at=current.opened_at, round=current.id, phase=Phase.COLLECTING)
            if kind is not EventKind.ROUND_OPENED:
                told = msgspec.structs.replace(
                    told,
                    at=current.closed_at or self._deps.clock(),
                    phase=current.phase,
                    reports=current.reports,
                    version=current.result_version,
                )
            events.append(told)
        if events:
            await self._publish_of_task(events, current.task, current.population)

    async def _publish_of_task(
        self, events: Iterable[LiveEvent], task: TaskName | None, population: PopulationName | None = None
    ) -> None:
        """Publish events about a task, all of them or none."""
        if task is not None and population is None:
            state = await self._registry.find(task)
            population = None if state is None else state.spec.population
        address = "" if task is None else await self._addresses.address(task)
        name = await self._population_name(population)
        for told in events:
            self._hub.publish(msgspec.structs.replace(told, task=address, population=name), population)

    async def _population_name(self, population: PopulationName | None) -> str:
        if population is None:
            return ""
        record = await self._deps.store.populations.get(population)
        return base_name(population) if record is None else record.shown_name


def _progress(before: Round | None, current: Round) -> list[EventKind]:
    """Return what has become of a round since it was told last."""
    kinds = []
    if current.phase is Phase.HELD and (before is None or before.phase is not Phase.HELD):
        kinds.append(EventKind.ROUND_HELD)
    if current.result_version is not None and (before is None or before.result_version is None):
        kinds.append(EventKind.VERSION_PUBLISHED)
    return kinds


def _told_change(entry: AuditEntry, population: str) -> LiveEvent:
    """Return the event of an audit entry, without the reason and the documents, which are texts."""
    return LiveEvent(
        kind=EventKind.CHANGED,
        at=entry.at,
        population=population,
        audit=entry.sequence,
        operator=entry.operator,
        action=entry.action,
        subject_kind=entry.subject_kind,
        subject=entry.subject,
    )
