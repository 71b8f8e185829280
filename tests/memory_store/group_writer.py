"""The group writer in memory: one operation after the other, by the repositories' own rules."""

from collections.abc import Sequence
from typing import assert_never

from keyflock_server.storage.errors import (
    AlreadyExists,
    AssignmentsNotOpen,
    PartialSuperseded,
    PopulationGone,
    Superseded,
)
from keyflock_server.storage.interfaces.devices import DeviceRepository
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    Operation,
    Outcome,
    TakeSlot,
)
from keyflock_server.storage.interfaces.rounds import RoundRepository
from keyflock_server.storage.records import RoundRecord

_REFUSALS = (AlreadyExists, AssignmentsNotOpen, PartialSuperseded, PopulationGone, Superseded)


class MemoryGroupWriter:
    def __init__(self, rounds: RoundRepository, devices: DeviceRepository) -> None:
        self._rounds = rounds
        self._devices = devices

    async def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        return [await self._outcome(operation) for operation in operations]

    async def _outcome(self, operation: Operation) -> Outcome:
        try:
            return await self._apply(operation)
        except _REFUSALS as refusal:
            return refusal

    async def _apply(self, operation: Operation) -> RoundRecord | None:
        match operation:
            case TakeSlot(assignment):
                return await self._rounds.assign(assignment)
            case GiveBack(assignment, session_shape, at):
                return await self._rounds.fail(assignment, session_shape, at)
            case AddDevice(device):
                await self._devices.add(device)
                return None
            case CountReports(partial, reports, at, replaces):
                return await self._rounds.commit_flush(partial, reports, at, replaces)
            case _:
                assert_never(operation)
