"""What is kept and for how long: a policy, and what it dooms at an instant. Nothing is deleted here."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord

#: Anybody can enrol: who then never comes back, or only ever asks, is nobody to be remembered for a year.
UNPROVEN_KEPT: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long things are kept.

    Rounds and their figures stay for good: they are small, and the history of a model.
    """

    #: Who took part in a round, this long after it ended.
    assignments_kept: timedelta = timedelta(days=30)
    #: The newest model versions of each population that stay; at least two, for heads are mapped from one to
    #: the next.
    versions_kept: int = 20
    #: Devices that were not seen for this long go, and heads that nobody wrote for this long.
    devices_kept: timedelta = timedelta(days=400)
    #: Devices that never reported, stored no head and were not seen for this long go.
    unproven_kept: timedelta = UNPROVEN_KEPT
    #: Blobs that no row points to, this long after they were written.
    orphans_kept: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnprovenDevices:
    """Devices that never reported and have stored no head.

    A phone that only asks for suggestions refreshes its token every day, which counts as being seen.
    """

    #: Last seen before then.
    seen_before: datetime
    #: Those that are kept out at this instant stay: enrolling anew must not end a quarantine.
    now: datetime

    def include(self, device: DeviceRecord) -> bool:
        """Whether the device is one of them."""
        is_kept_out = device.quarantined_until is not None and device.quarantined_until > self.now
        is_unproven = device.last_contributed_at is None and not device.has_head
        return is_unproven and not is_kept_out and device.last_seen_at < self.seen_before


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """What must go."""

    #: Assignments of rounds that ended before.
    rounds_ended_before: datetime
    #: Devices last seen before, and heads last written before.
    devices_seen_before: datetime
    #: Devices that never reported go sooner.
    unproven: UnprovenDevices
    #: Live tasks that a phone may take part in so often only: their assignments are what they count.
    spared_tasks: tuple[TaskName, ...]
    #: Blobs that no row points to, written before.
    orphans_written_before: datetime
    versions: tuple[tuple[PopulationName, ModelVersion], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many rows went, or would go."""

    assignments: int
    devices: int
    heads: int
    versions: int


def doomed(
    policy: RetentionPolicy,
    now: datetime,
    populations: Iterable[PopulationRecord],
    versions: Iterable[VersionRecord],
    unfinished: Iterable[RoundRecord],
    tasks: Iterable[TaskRecord],
) -> Doomed:
    """What the policy dooms now.

    Guarantees:
        Never doomed: a population's newest version, which keyboards serve; its parent, and the one before,
        which heads are mapped from; the version that an unfinished round began with; who took part in a live
        task that limits how often.
    """
    versions = tuple(versions)
    newest = {population.name: population.latest_version for population in populations}
    parents = {(one.population, one.parent) for one in versions if one.version == newest[one.population]}
    in_rounds = {(record.round.population, record.round.base_version) for record in unfinished}
    kept = max(policy.versions_kept, 2)
    old = tuple(
        (version.population, version.version)
        for version in versions
        if version.version <= newest[version.population] - kept
        and (version.population, version.version) not in in_rounds | parents
    )
    return Doomed(
        spared_tasks=tuple(
            task.name
            for task in tasks
            if task.status in {TaskStatus.ACTIVE, TaskStatus.PAUSED}
            and task.spec.eligibility.max_participations is not None
        ),
        rounds_ended_before=now - policy.assignments_kept,
        devices_seen_before=now - policy.devices_kept,
        unproven=UnprovenDevices(seen_before=now - policy.unproven_kept, now=now),
        orphans_written_before=now - policy.orphans_kept,
        versions=old,
    )
