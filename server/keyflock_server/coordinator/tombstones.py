"""What outlives a forgotten device, so that enrolling anew is no way round a quarantine or a limit.

Nothing is kept of a device of which nothing must hold, and nothing of one that neither named a user nor was
attested: such a device cannot be recognised again.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.identity.owners import tombstone_digest
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.door import Remains
from keyflock_server.storage.records import (
    DeviceRecord,
    TaskRecord,
    TombstoneRecord,
    participations_json,
    participations_of,
)

#: How long counts of a task that limits them are kept after a device was forgotten; as unseen devices are.
PARTICIPATIONS_KEPT: Final = timedelta(days=400)


def remains(owner_key: bytes, tasks: Collection[TaskRecord], now: datetime) -> Remains:
    """Return the rule by which a device that goes leaves tombstones, while these tasks are live."""
    live = [task.spec for task in tasks if task.status in {TaskStatus.ACTIVE, TaskStatus.PAUSED}]

    def of(device: DeviceRecord, participations: Mapping[TaskName, int]) -> Sequence[TombstoneRecord]:
        digests = [one for one in (device.user_digest, device.subject_digest) if one is not None]
        theirs = [spec for spec in live if spec.population == device.population]
        left = [
            _remains(tombstone_digest(owner_key, one), device, participations, theirs, now) for one in digests
        ]
        return [one for one in left if one.until > now]

    return of


def _remains(
    digest: str,
    device: DeviceRecord,
    participations: Mapping[TaskName, int],
    tasks: Sequence[TaskSpec],
    now: datetime,
) -> TombstoneRecord:
    """What must hold; a tombstone that is over already where nothing must."""
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
    before = participations_of(device.past_participations_json)
    limited = [spec.name for spec in tasks if spec.eligibility.max_participations is not None]
    counts = {task: participations.get(task, 0) + before.get(task, 0) for task in limited}
    counts = {task: count for task, count in counts.items() if count}
    if counts:
        untils.append(now + PARTICIPATIONS_KEPT)
    return TombstoneRecord(
        digest=digest,
        until=max(untils),
        quarantined_until=quarantined_until,
        last_contributed_at=contributed_at,
        participations_json=participations_json(counts),
    )
