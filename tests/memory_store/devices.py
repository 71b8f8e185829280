"""Devices in memory."""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial

from tests.memory_store.assignments import MemoryAssignmentRepository
from tests.memory_store.rows import MemoryRows
from tests.memory_store.tombstones import MemoryTombstoneRepository

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserDigest
from keyflock_server.rounds.availability import ActiveDevices
from keyflock_server.rounds.round import Failed, Phase, advance
from keyflock_server.storage.audit_documents import device_document, require_revision
from keyflock_server.storage.device_facts import DeviceFacts, SeenDevice
from keyflock_server.storage.interfaces.devices import TombstonesOf
from keyflock_server.storage.records import AssignmentState, DeviceRecord, RevocationRecord


class MemoryDeviceRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def get(self, device: DeviceId) -> DeviceRecord | None:
        return self._rows.devices.get(device)

    async def record_seen(self, check_ins: Sequence[SeenDevice]) -> None:
        for one in check_ins:
            before = self._rows.devices.get(one.device)
            if before is not None:
                at = max(one.at, before.enrolled_at + timedelta(microseconds=1))
                self._rows.devices[one.device] = replace(
                    before, app_build=one.app_build, locale=one.locale, last_seen_at=at
                )

    async def changed_since(self, at: datetime, limit: int) -> list[DeviceFacts]:
        changes = [
            (row.changed_at, row.facts) for row in self._rows.devices.values() if row.changed_at is not None
        ]
        newest = sorted((one for one in changes if one[0] >= at), key=lambda one: one[0], reverse=True)
        return [facts for _, facts in newest[:limit]]

    async def renew(
        self,
        before: DeviceRecord,
        after: DeviceRecord,
        revocation: RevocationRecord | None,
        *,
        audit: AuditContext | None = None,
    ) -> bool:
        was, becomes = asdict(before), asdict(after)
        changed = {name: value for name, value in becomes.items() if value != was[name]}
        with self._rows.log.audited(audit, SubjectKind.DEVICE, before.id, lambda: self._document(before.id)):
            row = self._rows.devices.get(before.id)
            if row is None or row.token_generation != before.token_generation:
                return False
            self._rows.devices[before.id] = replace(row, **changed)
            if revocation is not None:
                self._rows.revocations[revocation.device_digest] = revocation
        return True

    async def count_active(self, population: PopulationName, since: datetime) -> ActiveDevices:
        are_proven = [
            device.last_contributed_at is not None
            for device in self._rows.devices.values()
            if device.population == population and device.last_seen_at >= since
            if device.last_seen_at > device.enrolled_at
        ]
        return ActiveDevices(sum(are_proven), len(are_proven) - sum(are_proven))

    async def count(self, population: PopulationName) -> int:
        return sum(device.population == population for device in self._rows.devices.values())

    async def set_has_head(self, device: DeviceId) -> None:
        if device in self._rows.devices:
            self._rows.devices[device] = replace(self._rows.devices[device], has_head=True)

    async def page(
        self, population: PopulationName, after: DeviceId | None, limit: int
    ) -> list[DeviceRecord]:
        mine = sorted(
            device.id
            for device in self._rows.devices.values()
            if device.population == population and (after is None or device.id > after)
        )
        return [self._rows.devices[device] for device in mine[:limit]]

    async def list_by_users(self, users: Collection[UserDigest]) -> list[DeviceRecord]:
        theirs = (row for row in self._rows.devices.values() if row.user_digest in users)
        return sorted(theirs, key=lambda row: row.id)

    async def list_by_subject(self, subject_digest: str) -> list[DeviceRecord]:
        same = (row for row in self._rows.devices.values() if row.subject_digest == subject_digest)
        return sorted(same, key=lambda row: row.id)

    async def set_quarantine(
        self,
        device: DeviceId,
        before: bytes | None,
        standing_json: bytes | None,
        quarantined_until: datetime | None,
        at: datetime,
        *,
        audit: AuditContext | None = None,
    ) -> bool:
        with self._rows.log.audited(audit, SubjectKind.DEVICE, device, lambda: self._document(device)):
            row = self._rows.devices.get(device)
            if row is None or row.standing_json != before:
                return False
            self._rows.devices[device] = replace(
                row, standing_json=standing_json, quarantined_until=quarantined_until, changed_at=at
            )
        return True

    async def quarantined(self, now: datetime) -> dict[DeviceId, datetime]:
        every = ((row.id, row.quarantined_until) for row in self._rows.devices.values())
        return {device: until for device, until in every if until is not None and until > now}

    async def forget(
        self,
        forgotten: Collection[DeviceId],
        revocations: Collection[RevocationRecord],
        tombstones_of: TombstonesOf,
        at: datetime,
        *,
        audit: AuditContext | None = None,
    ) -> int:
        rows = self._rows
        gone = sorted(set(forgotten) & rows.devices.keys())
        for device in gone:
            if audit is not None:
                require_revision(audit, SubjectKind.DEVICE, device, self._document(device))
        for device in gone:
            counts = await MemoryAssignmentRepository(rows).participations_by_task(device)
            await MemoryTombstoneRepository(rows).add(tombstones_of(rows.devices[device], counts))
        for key, row in list(rows.assignments.items()):
            record = rows.rounds[row.round_id]
            if row.device not in forgotten:
                continue
            if record.round.is_over:
                del rows.assignments[key]
            elif row.state is AssignmentState.ASSIGNED:
                rows.assignments[key] = replace(row, state=AssignmentState.FAILED)
                if record.round.phase is Phase.COLLECTING:
                    after = replace(record, round=advance(record.round, Failed(), at))
                    rows.rounds[row.round_id] = after
        with ExitStack() as entries:
            for device in gone:
                document = partial(self._document, device)
                entries.enter_context(rows.log.audited(audit, SubjectKind.DEVICE, device, document))
            for device in gone:
                del rows.devices[device]
            for one in revocations:
                rows.revocations[one.device_digest] = one
        return len(gone)

    def _document(self, device: DeviceId) -> Document | None:
        known = self._rows.devices.get(device)
        return None if known is None else device_document(known)
