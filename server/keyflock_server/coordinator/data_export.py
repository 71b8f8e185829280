"""The data export: what the database holds about a device or a user, for the person whose it is.

It holds what a forget-me would delete, and what would outlive it. Nothing is left out but what says nothing
to its reader: digests under the server's key, and the encrypted model, whose content the phone gets by
``GET /v1/heads``.
"""

from datetime import UTC, datetime
from typing import Final

from keyflock_server.audit.entry import AuditEntry, SubjectKind
from keyflock_server.coordinator.data_subject import DataSubject, find_data_subject
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner, device_digest, phone_owner, tombstone_digest
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.stored_data import (
    ModelOwner,
    StoredActivity,
    StoredAssignment,
    StoredData,
    StoredDecision,
    StoredDevice,
    StoredEnrolment,
    StoredLimits,
    StoredModel,
    StoredQuarantine,
    StoredRevocation,
    StoredStanding,
    StoredViolation,
)
from keyflock_server.rounds.quarantine import stored_quarantine
from keyflock_server.storage.interfaces.audit import AuditFilter
from keyflock_server.storage.records import (
    AssignmentRecord,
    DeviceRecord,
    RevocationRecord,
    TombstoneRecord,
    parse_participations,
)

#: Assignments of one device in an answer: a megabyte and a half.
MAX_ASSIGNMENTS: Final = 10_000
#: Operators' decisions about one device; there are a handful at most.
MAX_DECISIONS: Final = 1_000


class DataExportService:
    """Says what is stored about a device or a user."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def stored_data(
        self, identity: DeviceIdentity, user: str | None = None, *, is_whole_user: bool = False
    ) -> StoredData:
        """Return what is stored about this device, or about its user's devices in every population.

        The personal models are those that the devices read and write; with the user also those of populations
        in which the user has no device any more.

        Args:
            identity: The device that asks.
            user: Proof of its user, needed for everything of the user.
            is_whole_user: Whether to return everything of the user.
        Raises:
            ApiError: ``token_invalid``; ``user_not_proven``; ``forbidden`` for a user other than the
                device's.
        """
        subject = await find_data_subject(self._deps, identity, user, is_whole_user=is_whole_user)
        devices = [await self._device(record) for record in subject.devices]
        return StoredData(devices=tuple(devices), personal_models=tuple(await self._models(subject)))

    async def _device(self, record: DeviceRecord) -> StoredDevice:
        store, key = self._deps.store, self._deps.owner_key
        assigned, total = await store.assignments.list_by_device(record.id, MAX_ASSIGNMENTS)
        counted = await store.assignments.participations_by_task(record.id)
        revocation = await store.revocations.get(device_digest(key, record.id))
        recognised_by = [one for one in (record.user_digest, record.subject_digest) if one is not None]
        digests = [tombstone_digest(key, one) for one in recognised_by]
        limits = await store.tombstones.among(digests, self._deps.clock()) if digests else []
        about = AuditFilter(subject_kind=SubjectKind.DEVICE, subject=device_digest(key, record.id))
        decided = await store.audit.page(about, None, MAX_DECISIONS)
        return StoredDevice(
            device=record.id,
            population=record.population,
            enrolment=_enrolment(record),
            activity=StoredActivity(
                last_contributed_at=_maybe_text(record.last_contributed_at),
                last_silent_at=_maybe_text(record.last_silent_at),
                silences=record.silences,
                changed_at=_maybe_text(record.changed_at),
                participations=counted,
                past_participations=parse_participations(record.past_participations_json),
            ),
            standing=_standing(record),
            assignments=tuple(_assignment(task, one) for task, one in assigned),
            further_assignments=total - len(assigned),
            revocation=None if revocation is None else _revocation(revocation),
            limits=tuple(map(_limits, limits)),
            decisions=tuple(map(_decision, decided)),
        )

    async def _models(self, subject: DataSubject) -> list[StoredModel]:
        key, owners = self._deps.owner_key, dict[tuple[PopulationName, Owner], ModelOwner]()
        for population, user in subject.users.items():
            owners[population, user] = ModelOwner.USER
        for device in subject.devices:
            if device.user_digest is not None:
                owners[device.population, Owner(device.user_digest)] = ModelOwner.USER
            owners[device.population, phone_owner(key, device.population, device.id)] = ModelOwner.DEVICE
        found = []
        for (population, owner), kind in owners.items():
            stored = await self._deps.store.personal_models.get(population, owner)
            if stored is not None:
                found.append(
                    StoredModel(
                        population=population,
                        owner=kind,
                        size_bytes=len(stored.sealed),
                        updated_at=_text(stored.updated_at),
                    )
                )
        return found


def _assignment(task: TaskName, record: AssignmentRecord) -> StoredAssignment:
    return StoredAssignment(
        assignment=record.id,
        task=task,
        round=record.round_id,
        state=record.state,
        assigned_at=_text(record.assigned_at),
        expires_at=_maybe_text(record.expires_at),
        counted_at=_maybe_text(record.counted_at),
        counted_in=record.counted_in,
        weight=record.weight,
        session_shape=record.session_shape,
        report_digest=record.report_digest,
    )


def _enrolment(record: DeviceRecord) -> StoredEnrolment:
    return StoredEnrolment(
        app_build=record.app_build,
        locale=record.locale,
        tier=record.tier,
        tags=record.tags,
        enrolled_at=_text(record.enrolled_at),
        last_seen_at=_text(record.last_seen_at),
        has_user=record.user_digest is not None,
        is_attested=record.subject_digest is not None,
        has_stored_model=record.has_head,
        token_generation=record.token_generation,
    )


def _standing(record: DeviceRecord) -> StoredStanding:
    stored = stored_quarantine(record.standing_json)
    last = None
    if stored.last is not None:
        last = StoredQuarantine(
            since=_text(stored.last.since),
            until=_text(stored.last.until),
            reason=stored.last.reason,
            by=stored.last.by,
            count=stored.quarantines,
        )
    return StoredStanding(
        quarantined_until=_maybe_text(record.quarantined_until),
        quarantine=last,
        violations=tuple(
            StoredViolation(at=_text(one.at), round=one.round, verdict=one.verdict)
            for one in stored.violations
        ),
    )


def _revocation(record: RevocationRecord) -> StoredRevocation:
    return StoredRevocation(
        generation=record.generation,
        effective_at=_text(record.effective_at),
        written_at=_text(record.written_at),
        until=_text(record.until),
    )


def _limits(record: TombstoneRecord) -> StoredLimits:
    return StoredLimits(
        until=_text(record.until),
        quarantined_until=_maybe_text(record.quarantined_until),
        last_contributed_at=_maybe_text(record.last_contributed_at),
        participations=parse_participations(record.participations_json),
    )


def _decision(entry: AuditEntry) -> StoredDecision:
    return StoredDecision(at=_text(entry.at), action=entry.action, reason=entry.reason)


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"


def _maybe_text(instant: datetime | None) -> str | None:
    return None if instant is None else _text(instant)
