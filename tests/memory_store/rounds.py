"""Rounds, assignments and partial aggregates in memory."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.compared_pairs import is_same_comparison
from keyflock_server.rounds.round import (
    Carried,
    Expired,
    Phase,
    Published,
    RoundEvent,
    Summarised,
)
from keyflock_server.storage.audit_documents import round_document
from keyflock_server.storage.errors import AlreadyExists, Superseded, UnreadableRow
from keyflock_server.storage.interfaces.rounds import RoundChanges
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import (
    AssignmentState,
    PartialRecord,
    RoundRecord,
    is_silence,
)


class MemoryRoundRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, record: RoundRecord) -> None:
        self._rows.require_population(record.round.population)
        taken = {(other.round.task, other.round.sequence) for other in self._rows.rounds.values()}
        is_taken = record.round.id in self._rows.rounds or (record.round.task, record.round.sequence) in taken
        is_early = any(
            one.round.task == record.round.task or is_same_comparison(record.round, one.round)
            for one in await self.unfinished()
        )
        if is_taken or is_early:
            raise AlreadyExists(record.round.id)
        self._rows.rounds[record.round.id] = record

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        return self._rows.rounds.get(round_id)

    async def list_by_task(
        self,
        task: TaskName,
        last: int | None = None,
        unreadable: list[UnreadableRow] | None = None,  # noqa: ARG002 - no row here is damaged
    ) -> list[RoundRecord]:
        mine = [record for record in self._rows.rounds.values() if record.round.task == task]
        mine.sort(key=lambda record: record.round.sequence)
        return mine if last is None else mine[-last:]

    async def phases(self, task: TaskName) -> dict[Phase, int]:
        return dict(Counter(record.round.phase for record in await self.list_by_task(task)))

    async def count(self, task: TaskName) -> tuple[int, int]:
        mine = [record.round for record in await self.list_by_task(task)]
        return max((one.sequence for one in mine), default=0), sum(one.phase is Phase.CLOSED for one in mine)

    async def unfinished(self, unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:  # noqa: ARG002 - as above
        mine = [record for record in self._rows.rounds.values() if not record.round.is_over]
        return sorted(mine, key=lambda record: record.round.opened_at)

    async def advance(
        self,
        round_id: RoundId,
        event: RoundEvent,
        at: datetime,
        changes: RoundChanges,
        *,
        audit: AuditContext | None = None,
    ) -> RoundRecord:
        after = replace(self._rows.advanced(round_id, event, at), **changes)
        with self._rows.log.audited(
            audit, SubjectKind.ROUND, round_id, lambda: round_document(self._rows.rounds[round_id])
        ):
            self._rows.rounds[round_id] = after
        return after

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        excluded: Collection[AssignmentId] = (),
        rejected: Collection[AssignmentId] = (),
        now: datetime | None = None,
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        current = self._rows.rounds[round_id].round
        its_task = {one.round.id for one in self._rows.rounds.values() if one.round.task == current.task}
        due = [
            row
            for row in self._rows.assignments.values()
            if (row.round_id == round_id or (current.is_async and row.round_id in its_task))
            and row.state is AssignmentState.ASSIGNED
            and row.runs_out_at(current) <= before
            and row.id not in excluded
        ]
        if not due:
            return None
        after, own = self._rows.rounds[round_id], sum(row.round_id == round_id for row in due)
        if own and current.phase is Phase.COLLECTING:
            after = self._rows.advanced(round_id, Expired(own), before)
        for row in due:
            key = row.round_id, row.device
            self._rows.assignments[key] = replace(row, state=AssignmentState.EXPIRED)
            device = self._rows.devices.get(row.device)
            if device is not None and row.id not in rejected and is_silence(row, current):
                self._rows.devices[device.id] = replace(
                    device,
                    silences=device.silences + 1,
                    last_silent_at=row.runs_out_at(current),
                    changed_at=now or before,
                )
        self._rows.rounds[round_id] = after
        return after, tuple(sorted(row.id for row in due))

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        mine = [row for row in self._rows.partials.values() if row.round_id == round_id]
        return sorted(mine, key=lambda row: row.replica)

    async def carry(
        self, before: RoundId, event: Carried, after: RoundRecord, *, audit: AuditContext | None = None
    ) -> RoundRecord:
        with self._rows.log.audited(
            audit, SubjectKind.ROUND, before, lambda: round_document(self._rows.rounds[before])
        ):
            return await self._carry(before, event, after)

    async def _carry(self, before: RoundId, event: Carried, after: RoundRecord) -> RoundRecord:
        ended = self._rows.advanced(before, event, after.round.opened_at)
        newest = self._rows.populations[after.round.population].latest_version
        if newest != ended.round.base_version:
            raise Superseded(before)
        begun = replace(after.round, carried=ended.round.reports, weight=ended.round.weight)
        current = self._rows.rounds[before]
        self._rows.rounds[before] = ended
        try:
            await self.add(replace(after, round=begun))
        except AlreadyExists:
            self._rows.rounds[before] = current
            raise Superseded(before) from None
        for row in await self.partials(before):
            del self._rows.partials[before, row.replica]
            origin = row.replica if "/" in row.replica else f"{before}/{row.replica}"
            moved = replace(row, round_id=begun.id, replica=origin)
            self._rows.partials[begun.id, moved.replica] = moved
        return replace(after, round=begun)

    async def publish(
        self,
        round_id: RoundId,
        version: VersionRecord,
        optimizer_state_key: str,
        at: datetime,
        norm_scales_json: bytes | None = None,
    ) -> RoundRecord:
        after = self._rows.advanced(round_id, Published(version.version), at)
        name, task = version.population, after.round.task
        if self._rows.populations[name].latest_version != version.parent:
            raise Superseded(round_id)
        self._rows.versions[name, version.version] = version
        newest = replace(
            self._rows.populations[name],
            latest_version=version.version,
            average_key=None if after.staged is None else after.staged.average_key,
        )
        if after.round.is_accepted and version.anchor_loss is not None:
            newest = replace(newest, anchor_loss_chosen=version.anchor_loss)
        self._rows.populations[name] = newest
        before = self._rows.tasks[task]
        self._rows.tasks[task] = replace(
            before,
            optimizer_state_key=optimizer_state_key,
            norm_scales_json=before.norm_scales_json if norm_scales_json is None else norm_scales_json,
        )
        self._rows.rounds[round_id] = after
        return after

    async def publish_personalisation(
        self,
        round_id: RoundId,
        event: Summarised,
        before: bytes | None,
        after: bytes | None,
        at: datetime,
    ) -> RoundRecord:
        ended = self._rows.advanced(round_id, event, at)
        name = ended.round.population
        if after is not None:
            population = self._rows.populations[name]
            if population.personalisation_json != before:
                raise Superseded(round_id)
            self._rows.populations[name] = replace(population, personalisation_json=after)
        self._rows.rounds[round_id] = ended
        return ended

    async def publish_evaluation(
        self, round_id: RoundId, event: Summarised, evaluation: EvaluationRecord, at: datetime
    ) -> RoundRecord:
        self._rows.rounds[round_id] = ended = self._rows.advanced(round_id, event, at)
        self._rows.evaluations[round_id] = evaluation
        return ended

    async def clear_up(self, round_id: RoundId) -> None:
        for key in list(self._rows.assignments):
            if key[0] == round_id and key[1] not in self._rows.devices:
                del self._rows.assignments[key]
        for row in await self.partials(round_id):
            del self._rows.partials[round_id, row.replica]
