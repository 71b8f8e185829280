"""The group writer in SQL: one transaction that reads, decides and writes for a whole group of operations.

It works on sets: however many operations the group has, each table is read by one statement and written by
one ``executemany``. Rows are locked in the order of all transactions (``lock_order``). Statements are built
once, and their lists are padded to powers of two, so that a database prepares few different ones.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Select, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.storage.device_facts import DeviceFacts
from keyflock_server.storage.errors import AlreadyExists, StorageDamaged, StorageUnavailable
from keyflock_server.storage.group_decisions import AssignmentKey, GroupChanges, GroupDecisions, PartialKey
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
from keyflock_server.storage.sql.assignments import assignment_record
from keyflock_server.storage.sql.devices import FACTS, device_facts
from keyflock_server.storage.sql.population_rows import IS_THERE
from keyflock_server.storage.sql.round_rows import change_of, round_record
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import assignments, devices, partials, populations, rounds

T = TypeVar("T", bound=str)


def _among(name: str) -> Any:  # noqa: ANN401 - SQLAlchemy's parameter
    return bindparam(name, expanding=True)


_ROUNDS: Final = select(rounds).where(rounds.c.id.in_(_among("ids"))).order_by(rounds.c.id).with_for_update()
_ASSIGNMENTS: Final = (
    select(assignments)
    .where(assignments.c.round_id.in_(_among("round_ids")), assignments.c.device.in_(_among("device_ids")))
    .order_by(assignments.c.round_id, assignments.c.device)
    .with_for_update()
)
_DEVICES: Final = select(*FACTS).where(devices.c.id.in_(_among("ids"))).order_by(devices.c.id)
#: Keeps the devices from being forgotten before the commit, so that none of those holds a slot.
_KEPT_DEVICES: Final = _DEVICES.with_for_update(read=True, key_share=True)
_LOCKED_DEVICES: Final = _DEVICES.with_for_update()
#: Keeps the populations from being deleted before the commit.
_KEPT_POPULATIONS: Final = (
    select(populations.c.name)
    .where(populations.c.name.in_(_among("names")), IS_THERE)
    .order_by(populations.c.name)
    .with_for_update(read=True, key_share=True)
)
_PARTIALS: Final = select(partials.c.round_id, partials.c.replica, partials.c.key).where(
    partials.c.round_id.in_(_among("round_ids")), partials.c.replica.in_(_among("replicas"))
)

_ADD_DEVICE: Final = insert(devices)
_ADD_ASSIGNMENT: Final = insert(assignments)
_ADD_PARTIAL: Final = insert(partials)
_REPLACE_PARTIAL: Final = (
    update(partials)
    .where(partials.c.round_id == bindparam("of_round"), partials.c.replica == bindparam("of_replica"))
    .values(key=bindparam("its_key"), count=bindparam("its_count"), weight=bindparam("its_weight"))
)
_ONE_ASSIGNMENT: Final = update(assignments).where(
    assignments.c.round_id == bindparam("of_round"), assignments.c.device == bindparam("of_device")
)
_FAIL: Final = _ONE_ASSIGNMENT.values(state=AssignmentState.FAILED, session_shape=bindparam("shape"))
_COUNT: Final = _ONE_ASSIGNMENT.values(
    state=AssignmentState.COUNTED,
    report_digest=bindparam("digest"),
    weight=bindparam("its_weight"),
    session_shape=bindparam("shape"),
    counted_in=bindparam("its_round"),
    counted_at=bindparam("received_at"),
)
_CONTRIBUTED: Final = (
    update(devices)
    .where(devices.c.id.in_(_among("ids")))
    .values(last_contributed_at=bindparam("at"), silences=0, changed_at=bindparam("at"))
)


class SqlGroupWriter:
    """Implements ``GroupWriter`` in SQL."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def commit(self, operations: Sequence[Operation]) -> list[OperationOutcome]:
        """Commit these operations in one transaction, in this order."""
        try:
            return await self._transactions.run(_commit, operations)
        except Exception as error:
            if _is_away(error):
                raise
            # A row is damaged, or came in between where no lock of ours keeps it out.
            if len(operations) > 1:
                return await self._outcomes_alone(operations)
            if isinstance(error, IntegrityError):
                match operations[0]:
                    case TakeSlot(assignment):
                        return [AlreadyExists(assignment.id)]
                    case AddDevice(device):
                        return [AlreadyExists(device.id)]
                    case _:
                        pass
            raise

    async def _outcomes_alone(self, operations: Sequence[Operation]) -> list[OperationOutcome]:
        """Commit the operations one by one; what fails now does not undo those that are committed already."""
        outcomes: list[OperationOutcome] = []
        for one in operations:
            try:
                outcomes += await self.commit([one])
            except Exception as error:  # noqa: BLE001 - whatever it was, it is this operation's outcome
                outcomes.append(error)
                if _is_away(error):  # nobody waits for the store's timeout once for each operation
                    return outcomes + [error] * (len(operations) - len(outcomes))
        return outcomes


def _is_away(error: Exception) -> bool:
    """Return whether the store as a whole does not answer."""
    return isinstance(error, StorageUnavailable) and not isinstance(error, StorageDamaged)


def _commit(connection: Connection, operations: Sequence[Operation]) -> list[OperationOutcome]:
    decisions = _read(connection, operations)
    outcomes = decisions.outcomes(operations)
    _write(connection, decisions.changes)
    return outcomes


def _read(connection: Connection, operations: Sequence[Operation]) -> GroupDecisions:
    """Read and lock what the operations concern."""
    slots = [one.assignment for one in operations if isinstance(one, TakeSlot)]
    given_back = [one.assignment for one in operations if isinstance(one, GiveBack)]
    flushes = [one for one in operations if isinstance(one, CountReports)]
    added = [one.device for one in operations if isinstance(one, AddDevice)]
    reports = [report for flush in flushes for report in flush.reports]
    asked = slots + given_back
    keys = {(one.round_id, one.device) for one in asked} | {(one.round_id, one.device) for one in reports}
    round_ids = {one.round_id for one in asked} | {flush.partial.round_id for flush in flushes}
    judged = {one.device for one in slots} | {one.device for one in reports}
    return GroupDecisions(
        _read_rounds(connection, round_ids),
        _read_assignments(connection, keys),
        _read_devices(connection, judged, _LOCKED_DEVICES if reports else _KEPT_DEVICES),
        _read_populations(connection, {one.population for one in added}),
        _read_partials(connection, [flush.partial for flush in flushes]),
    )


def _read_rounds(connection: Connection, ids: Collection[RoundId]) -> dict[RoundId, RoundRecord]:
    rows = connection.execute(_ROUNDS, {"ids": _padded(ids)}) if ids else ()
    return {row.id: round_record(row) for row in rows}


def _read_assignments(
    connection: Connection, keys: Collection[AssignmentKey]
) -> dict[AssignmentKey, AssignmentRecord]:
    if not keys:
        return {}
    ids = {
        "round_ids": _padded({round_id for round_id, _ in keys}),
        "device_ids": _padded({device for _, device in keys}),
    }
    found = (assignment_record(row) for row in connection.execute(_ASSIGNMENTS, ids))
    return {(one.round_id, one.device): one for one in found}


def _read_devices(
    connection: Connection, ids: Collection[DeviceId], query: Select[Any]
) -> dict[DeviceId, DeviceFacts]:
    rows = connection.execute(query, {"ids": _padded(ids)}) if ids else ()
    return {row.id: device_facts(row) for row in rows}


def _read_populations(connection: Connection, names: Collection[PopulationName]) -> set[PopulationName]:
    if not names:
        return set()
    return {PopulationName(name) for name in connection.scalars(_KEPT_POPULATIONS, {"names": _padded(names)})}


def _read_partials(connection: Connection, mine: Collection[PartialRecord]) -> dict[PartialKey, str]:
    if not mine:
        return {}
    ids = {
        "round_ids": _padded({one.round_id for one in mine}),
        "replicas": _padded({one.replica for one in mine}),
    }
    return {(round_id, replica): key for round_id, replica, key in connection.execute(_PARTIALS, ids)}


def _write(connection: Connection, changes: GroupChanges) -> None:
    if changes.devices:
        connection.execute(_ADD_DEVICE, _DEVICE_ROWS.of(changes.devices))
    if changes.assigned:
        connection.execute(_ADD_ASSIGNMENT, _ASSIGNMENT_ROWS.of(changes.assigned))
    if changes.failed:
        failed = [
            {"of_round": round_id, "of_device": device, "shape": shape}
            for (round_id, device), shape in changes.failed
        ]
        connection.execute(_FAIL, failed)
    for flush in changes.counted:
        connection.execute(_COUNT, [_counted(report, flush) for report in flush.reports])
    for flush in changes.contributed:
        theirs = _padded({report.device for report in flush.reports})
        connection.execute(_CONTRIBUTED, {"ids": theirs, "at": flush.at})
    for partial, has_row in changes.partials.values():
        if has_row:
            connection.execute(_REPLACE_PARTIAL, _replaced(partial))
        else:
            connection.execute(_ADD_PARTIAL, _PARTIAL_ROWS.of([partial]))
    for before, after in changes.rounds.values():
        if (change := change_of(before, after)) is not None:
            connection.execute(*change)


def _counted(report: CountedReport, flush: CountReports) -> dict[str, object]:
    return {
        "of_round": report.round_id,
        "of_device": report.device,
        "digest": report.report_digest,
        "its_weight": report.weight,
        "shape": report.session_shape,
        "its_round": flush.partial.round_id,
        "received_at": report.received_at or flush.at,
    }


def _replaced(partial: PartialRecord) -> dict[str, object]:
    return {
        "of_round": partial.round_id,
        "of_replica": partial.replica,
        "its_key": partial.key,
        "its_count": partial.count,
        "its_weight": partial.weight,
    }


def _padded(values: Iterable[T]) -> list[T]:
    """Return the values, at least one, with the last one repeated up to a power of two."""
    ordered = sorted(values)
    return ordered + ordered[-1:] * ((1 << (len(ordered) - 1).bit_length()) - len(ordered))


class _Rows:
    """Rows of a table from records with the same names; ``dataclasses.asdict`` would copy every value."""

    def __init__(self, record_type: type[Any]) -> None:
        self._names = tuple(field.name for field in fields(record_type))
        self._values = attrgetter(*self._names)

    def of(self, records: Iterable[object]) -> list[dict[str, object]]:
        return [dict(zip(self._names, self._values(record), strict=True)) for record in records]


_DEVICE_ROWS: Final = _Rows(DeviceRecord)
_ASSIGNMENT_ROWS: Final = _Rows(AssignmentRecord)
_PARTIAL_ROWS: Final = _Rows(PartialRecord)
