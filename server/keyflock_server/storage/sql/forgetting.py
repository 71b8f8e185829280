"""The transaction that forgets devices, in SQL. It locks rounds, assignments and devices, as a flush does.

So either the flush goes first and has counted the report before the device is forgotten, or it finds that the
assignment has failed and counts nothing.
"""

from collections.abc import Collection
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.rounds.round import FINAL_PHASES, Failed, Phase
from keyflock_server.storage.audit_documents import device_document
from keyflock_server.storage.errors import StorageDamaged
from keyflock_server.storage.interfaces.devices import TombstonesOf
from keyflock_server.storage.records import AssignmentState, DeviceRecord, RevocationRecord, RoundRecord
from keyflock_server.storage.sql.assignments import participations_by_task
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.lock_order import lock_rows
from keyflock_server.storage.sql.revocations import write_revocations
from keyflock_server.storage.sql.round_rows import apply_event, round_record
from keyflock_server.storage.sql.tombstones import write_tombstones
from keyflock_server.storage.tables import assignments, devices, rounds


class AssignedMeanwhile(Exception):
    """A device was assigned after its open assignments were read: the transaction must begin again."""


def forget_devices(
    connection: Connection,
    forgotten: Collection[DeviceId],
    revocations: Collection[RevocationRecord],
    tombstones_of: TombstonesOf,
    at: datetime,
    audit: AuditContext | None,
) -> int:
    """Delete devices within the caller's transaction, as ``DeviceRepository.forget`` specifies.

    Raises:
        AssignedMeanwhile: the caller rolls back and tries again.
    """
    theirs = assignments.c.device.in_(forgotten)
    its_rounds = _locked_rounds(connection, forgotten)
    # Those of earlier rounds are deleted below; a flush may hold one of them beside those of its reports.
    lock_rows(connection, assignments, theirs)
    found = _open_rounds(connection, forgotten)
    # An assigning transaction locks its device until it commits: after this lock there is none.
    mine = select(devices).where(devices.c.id.in_(forgotten)).order_by(devices.c.id).with_for_update()
    rows = [DeviceRecord(**row._mapping) for row in connection.execute(mine)]  # noqa: SLF001 - its name
    if _open_rounds(connection, forgotten) != found or not its_rounds.keys() >= set(found):
        raise AssignedMeanwhile
    tombstones = [
        one for row in rows for one in tombstones_of(row, participations_by_task(connection, row.id))
    ]
    for round_id in found:
        known = its_rounds[round_id]
        if known is not None and known.round.phase is Phase.COLLECTING:
            its_rounds[round_id] = apply_event(connection, known, Failed(), at)
    over = select(rounds.c.id).where(rounds.c.phase.in_(FINAL_PHASES))
    connection.execute(delete(assignments).where(theirs, assignments.c.round_id.in_(over)))
    connection.execute(
        update(assignments)
        .where(theirs, assignments.c.state == AssignmentState.ASSIGNED)
        .values(state=AssignmentState.FAILED)
    )
    with ExitStack() as entries:
        for row in rows:
            entries.enter_context(audited(connection, audit, SubjectKind.DEVICE, row.id, device_document_of))
        deleted = connection.execute(delete(devices).where(devices.c.id.in_(forgotten)))
        write_revocations(connection, revocations)
        write_tombstones(connection, tombstones)
    return deleted.rowcount


def device_document_of(connection: Connection, device: str) -> Document | None:
    """Return the audit log's document of a device, locked; None if it is not enrolled."""
    row = connection.execute(select(devices).where(devices.c.id == device).with_for_update()).one_or_none()
    return None if row is None else device_document(DeviceRecord(**row._mapping))  # noqa: SLF001 - its name


def _open_rounds(connection: Connection, forgotten: Collection[DeviceId]) -> list[RoundId]:
    """Return the rounds of the devices' open assignments, once for each of these."""
    query = (
        select(assignments.c.round_id)
        .where(assignments.c.device.in_(forgotten), assignments.c.state == AssignmentState.ASSIGNED)
        .order_by(assignments.c.round_id)
    )
    return [RoundId(round_id) for round_id in connection.scalars(query)]


def _locked_rounds(
    connection: Connection, forgotten: Collection[DeviceId]
) -> dict[RoundId, RoundRecord | None]:
    """Return the rounds of the devices' open assignments, locked against other transactions.

    A round whose row is damaged is None: it must not keep a device from being forgotten.
    """
    wanted = rounds.c.id.in_(_open_rounds(connection, forgotten))
    rows = connection.execute(select(rounds).where(wanted).order_by(rounds.c.id).with_for_update())
    return {RoundId(row.id): _readable(row) for row in rows}


def _readable(row: Row[Any]) -> RoundRecord | None:
    try:
        return round_record(row)
    except StorageDamaged:
        return None
