"""What a group of operations does to the rows that it concerns; pure: the store reads, locks and writes them.

The operations are judged one after the other, each by the rows as the ones before it have left them. So a
group has the outcome that its operations would have one by one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import assert_never

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.rounds.round import (
    Counted,
    Failed,
    IllegalRoundEvent,
    Phase,
    RoundEvent,
    SlotTaken,
    advance,
)
from keyflock_server.storage.device_facts import DeviceFacts
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

AssignmentKey = tuple[RoundId, DeviceId]
PartialKey = tuple[RoundId, str]

_REFUSALS = (AlreadyExists, AssignmentsNotOpen, PartialSuperseded, PopulationGone, Superseded)


@dataclass(slots=True)
class GroupChanges:
    """What a group of operations has to write."""

    devices: list[DeviceRecord] = field(default_factory=list)
    #: New assignments.
    assigned: list[AssignmentRecord] = field(default_factory=list)
    #: Assignments that have failed, with the new session shape.
    failed: list[tuple[AssignmentKey, str]] = field(default_factory=list)
    counted: list[CountReports] = field(default_factory=list)
    #: Those of them whose reports are contributions of their devices.
    contributed: list[CountReports] = field(default_factory=list)
    #: Partial aggregates, and whether each of them has a row already.
    partials: dict[PartialKey, tuple[PartialRecord, bool]] = field(default_factory=dict)
    #: Rounds before and after the group.
    rounds: dict[RoundId, tuple[RoundRecord, RoundRecord]] = field(default_factory=dict)


class GroupDecisions:
    """Decides which operations of a group are written, and what is written of them.

    Args:
        rounds: The rounds of all operations, as far as they exist.
        assignments: The assignments of all operations, as far as they exist.
        devices: The facts about the devices of all operations, as far as they are enrolled.
        populations: Those populations of new devices that are there.
        partials: The blob keys of the partial aggregates of all flushes, as far as they exist.
    """

    def __init__(
        self,
        rounds: Mapping[RoundId, RoundRecord],
        assignments: Mapping[AssignmentKey, AssignmentRecord],
        devices: Mapping[DeviceId, DeviceFacts],
        populations: Collection[PopulationName],
        partials: Mapping[PartialKey, str],
    ) -> None:
        self._rounds = dict(rounds)
        self._assignments = dict(assignments)
        self._devices = dict(devices)
        self._populations = populations
        self._partials = dict(partials)
        self.changes = GroupChanges()

    def outcomes(self, operations: Sequence[Operation]) -> list[OperationOutcome]:
        """Decide on the operations of the group, in order."""
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
                case CountReports():
                    return self._count(operation)
                case _:
                    assert_never(operation)
        except _REFUSALS as refusal:
            return refusal

    def _take_slot(self, assignment: AssignmentRecord) -> RoundRecord:
        key = assignment.round_id, assignment.device
        after = advanced(self._round(assignment.round_id), SlotTaken(), assignment.assigned_at)
        facts = self._devices.get(assignment.device)
        if facts is not None and key in self._assignments:
            raise AlreadyExists(assignment.id)
        check_slot(assignment, after.round, facts)
        self._assignments[key] = assignment
        self.changes.assigned.append(assignment)
        return self._moved(after)

    def _give_back(self, assignment: AssignmentRecord, session_shape: str, at: datetime) -> RoundRecord:
        key = assignment.round_id, assignment.device
        after = self._round(assignment.round_id)
        row = self._assignments.get(key)
        if row is None or row.state is not AssignmentState.ASSIGNED:
            raise Superseded(assignment.id)
        if after.round.phase is Phase.COLLECTING:
            after = self._moved(advanced(after, Failed(), at))
        self._assignments[key] = replace(row, state=AssignmentState.FAILED, session_shape=session_shape)
        self.changes.failed.append((key, session_shape))
        return after

    def _add_device(self, device: DeviceRecord) -> None:
        if device.population not in self._populations:
            raise PopulationGone(device.population)
        self._devices[device.id] = device.facts
        self.changes.devices.append(device)

    def _count(self, flush: CountReports) -> RoundRecord:
        partial, reports = flush.partial, flush.reports
        before = self._round(partial.round_id)
        found = (self._assignments.get((report.round_id, report.device)) for report in reports)
        rows = [row for row in found if row is not None]
        if not_open := AssignmentsNotOpen.find([report.id for report in reports], rows, self._devices):
            raise not_open
        event = Counted(len(reports), sum(report.weight for report in reports))
        after = advanced(before, event, flush.at)
        key = partial.round_id, partial.replica
        if self._partials.get(key) != flush.replaces:
            raise PartialSuperseded(partial.round_id)
        for report in reports:
            its_key = report.round_id, report.device
            self._assignments[its_key] = _counted(self._assignments[its_key], report, flush)
            if before.round.spec.counts_as_training:
                facts = self._devices[report.device]
                self._devices[report.device] = replace(facts, last_contributed_at=flush.at, silences=0)
        self.changes.counted.append(flush)
        if before.round.spec.counts_as_training:
            self.changes.contributed.append(flush)
        _, has_row = self.changes.partials.get(key, (None, key in self._partials))
        self.changes.partials[key] = partial, has_row
        self._partials[key] = partial.key
        return self._moved(after)

    def _round(self, round_id: RoundId) -> RoundRecord:
        if (known := self._rounds.get(round_id)) is None:
            raise Superseded(round_id)
        return known

    def _moved(self, after: RoundRecord) -> RoundRecord:
        id_ = after.round.id
        first, _ = self.changes.rounds.get(id_, (self._rounds[id_], after))
        self.changes.rounds[id_] = first, after
        self._rounds[id_] = after
        return after


def advanced(before: RoundRecord, event: RoundEvent, at: datetime) -> RoundRecord:
    """Return a round's row after an event; raises Superseded where the event does not happen to it."""
    try:
        return replace(before, round=advance(before.round, event, at))
    except IllegalRoundEvent as error:
        raise Superseded(f"{before.round.id}: {error}") from None


def _counted(before: AssignmentRecord, report: CountedReport, flush: CountReports) -> AssignmentRecord:
    return replace(
        before,
        state=AssignmentState.COUNTED,
        report_digest=report.report_digest,
        weight=report.weight,
        session_shape=report.session_shape,
        counted_in=flush.partial.round_id,
        counted_at=report.received_at or flush.at,
    )
