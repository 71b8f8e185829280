"""The group writer in memory: one operation after the other, each by its own rules."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from tests.memory_store.rows import MemoryRows

from keyflock_server.rounds.round import Counted, Failed, Phase, SlotTaken
from keyflock_server.storage.errors import (
    AlreadyExists,
    AssignmentsNotOpen,
    PartialSuperseded,
    PopulationGone,
    Superseded,
)
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    Operation,
    OperationOutcome,
    TakeSlot,
)
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    CountedReport,
    DeviceRecord,
    PartialRecord,
    RoundRecord,
)
from keyflock_server.storage.slots import check_slot

_REFUSALS = (AlreadyExists, AssignmentsNotOpen, PartialSuperseded, PopulationGone, Superseded)


class MemoryGroupWriter:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def commit(self, operations: Sequence[Operation]) -> list[OperationOutcome]:
        return [self._outcome(operation) for operation in operations]

    def _outcome(self, operation: Operation) -> OperationOutcome:
        try:
            match operation:
                case TakeSlot(assignment):
                    return self._take_slot(assignment)
                case GiveBack(assignment, session_shape, at):
                    return self._give_back(assignment, session_shape, at)
                case AddDevice(device):
                    self._add_device(device)
                    return None
                case CountReports(partial, reports, at, replaces):
                    return self._count(partial, reports, at, replaces)
                case _:
                    assert_never(operation)
        except _REFUSALS as refusal:
            return refusal

    def _add_device(self, device: DeviceRecord) -> None:
        self._rows.require_population(device.population)
        if device.id in self._rows.devices:
            raise AlreadyExists(device.id)
        self._rows.devices[device.id] = device

    def _take_slot(self, assignment: AssignmentRecord) -> RoundRecord:
        key = (assignment.round_id, assignment.device)
        after = self._rows.advanced(assignment.round_id, SlotTaken(), assignment.assigned_at)
        device = self._rows.devices.get(assignment.device)
        if device is not None and key in self._rows.assignments:
            raise AlreadyExists(assignment.id)
        check_slot(assignment, after.round, None if device is None else device.facts)
        self._rows.assignments[key] = assignment
        self._rows.rounds[assignment.round_id] = after
        return after

    def _give_back(self, assignment: AssignmentRecord, session_shape: str, at: datetime) -> RoundRecord:
        key = (assignment.round_id, assignment.device)
        row, record = self._rows.assignments.get(key), self._rows.rounds.get(assignment.round_id)
        if row is None or row.state is not AssignmentState.ASSIGNED or record is None:
            raise Superseded(assignment.id)
        after = record
        if record.round.phase is Phase.COLLECTING:
            after = self._rows.advanced(assignment.round_id, Failed(), at)
        self._rows.assignments[key] = replace(row, state=AssignmentState.FAILED, session_shape=session_shape)
        self._rows.rounds[assignment.round_id] = after
        return after

    def _count(
        self,
        partial: PartialRecord,
        reports: Sequence[CountedReport],
        at: datetime,
        replaces: str | None,
    ) -> RoundRecord:
        counted = Counted(len(reports), sum(report.weight for report in reports))
        keys = [(report.round_id, report.device) for report in reports]
        rows = [self._rows.assignments[key] for key in keys if key in self._rows.assignments]
        if not_open := AssignmentsNotOpen.find([report.id for report in reports], rows, self._rows.devices):
            raise not_open
        after = self._rows.advanced(partial.round_id, counted, at)
        before = self._rows.partials.get((partial.round_id, partial.replica))
        if (before.key if before else None) != replaces:
            raise PartialSuperseded(partial.round_id)
        for key, report in zip(keys, reports, strict=True):
            self._rows.assignments[key] = replace(
                self._rows.assignments[key],
                state=AssignmentState.COUNTED,
                report_digest=report.report_digest,
                weight=report.weight,
                session_shape=report.session_shape,
                counted_in=partial.round_id,
                counted_at=report.received_at or at,
            )
            if after.round.spec.counts_as_training:
                device = self._rows.devices[report.device]
                self._rows.devices[report.device] = replace(
                    device, last_contributed_at=at, silences=0, changed_at=at
                )
        self._rows.partials[partial.round_id, partial.replica] = partial
        self._rows.rounds[partial.round_id] = after
        return after
