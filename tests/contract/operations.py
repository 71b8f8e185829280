"""The group writer's operations one at a time: each is committed alone, and returns or raises its outcome."""

from collections.abc import Sequence
from datetime import datetime

from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    Operation,
    TakeSlot,
)
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import (
    AssignmentRecord,
    CountedReport,
    DeviceRecord,
    PartialRecord,
    RoundRecord,
)


async def take_slot(store: RecordStore, assignment: AssignmentRecord) -> RoundRecord:
    return await _round_after(store, TakeSlot(assignment))


async def give_back(
    store: RecordStore, assignment: AssignmentRecord, session_shape: str, at: datetime
) -> RoundRecord:
    return await _round_after(store, GiveBack(assignment, session_shape, at))


async def add_device(store: RecordStore, device: DeviceRecord) -> None:
    assert await _outcome(store, AddDevice(device)) is None


async def count_reports(
    store: RecordStore,
    partial: PartialRecord,
    reports: Sequence[CountedReport],
    at: datetime,
    replaces: str | None = None,
) -> RoundRecord:
    return await _round_after(store, CountReports(partial, reports, at, replaces))


async def _round_after(store: RecordStore, operation: Operation) -> RoundRecord:
    after = await _outcome(store, operation)
    assert after is not None
    return after


async def _outcome(store: RecordStore, operation: Operation) -> RoundRecord | None:
    (outcome,) = await store.group_writer.commit([operation])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome
