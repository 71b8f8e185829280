"""A tombstone outlives an erased device, so that enrolling anew does not evade a quarantine or a limit.

There is none for a device without a limit that still holds, and none for one that neither named a user nor
was attested: such a device cannot be recognised again.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.identity.owners import tombstone_digest
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.interfaces.devices import TombstonesOf
from keyflock_server.storage.records import (
    DeviceRecord,
    TaskRecord,
    TombstoneRecord,
    parse_participations,
    participations_json,
)

#: How long participation counts are retained after a device was erased; as long as unseen devices.
PARTICIPATIONS_RETENTION: Final = timedelta(days=400)


def tombstone_rule(owner_key: bytes, tasks: Collection[TaskRecord], now: datetime) -> TombstonesOf:
    """Return the rule that makes an erased device's tombstones while these tasks are live."""
    live = [task.spec for task in tasks if task.status in {TaskStatus.ACTIVE, TaskStatus.PAUSED}]

    def of(device: DeviceRecord, participations: Mapping[TaskName, int]) -> Sequence[TombstoneRecord]:
        digests = [one for one in (device.user_digest, device.subject_digest) if one is not None]
        theirs = [spec for spec in live if spec.population == device.population]
        left = [
            _tombstone(tombstone_digest(owner_key, one), device, participations, theirs, now)
            for one in digests
        ]
        return [one for one in left if one.until > now]

    return of


def _tombstone(
    digest: str,
    device: DeviceRecord,
    participations: Mapping[TaskName, int],
    tasks: Sequence[TaskSpec],
    now: datetime,
) -> TombstoneRecord:
    """Return the limits that still hold; without any, the tombstone has expired already."""
    untils = [now]
    quarantined_until = device.quarantined_until
    if quarantined_until is not None and quarantined_until > now:
        untils.append(quarantined_until)
    else:
        quarantined_until = None
    contributed_at = device.last_contributed_at
    separation = timedelta(seconds=max((spec.eligibility.min_separation_s for spec in tasks), default=0.0))
    if contributed_at is not None and contributed_at + separation > now:
        untils.append(contributed_at + separation)
    else:
        contributed_at = None
    before = parse_participations(device.past_participations_json)
    limited = [spec.name for spec in tasks if spec.eligibility.max_participations is not None]
    counts = {task: participations.get(task, 0) + before.get(task, 0) for task in limited}
    counts = {task: count for task, count in counts.items() if count}
    if counts:
        untils.append(now + PARTICIPATIONS_RETENTION)
    return TombstoneRecord(
        digest=digest,
        until=max(untils),
        quarantined_until=quarantined_until,
        last_contributed_at=contributed_at,
        participations_json=participations_json(counts),
    )
