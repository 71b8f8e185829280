"""Retention: a policy, and the rows that it has expired at an instant. Nothing is deleted here."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.records import DeviceRecord, PopulationRecord, RoundRecord, TaskRecord

#: Anybody can enrol, so a device that never reports is not retained for a year.
UNPROVEN_RETENTION: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How long rows and blobs are retained.

    Rounds and their figures are never deleted: they are small, and they are the history of a model.
    """

    #: Assignments are deleted this long after their round ended.
    assignments_retention: timedelta = timedelta(days=30)
    #: Number of newest model versions of each population that stay; at least two, because heads are mapped
    #: from one version to the next.
    versions_retained: int = 20
    #: Devices that did not check in for this long are deleted, and personal models not written for this long.
    devices_retention: timedelta = timedelta(days=400)
    #: Devices that never reported, stored no personal model and did not check in for this long are deleted.
    unproven_retention: timedelta = UNPROVEN_RETENTION
    #: Blobs that no row points to are deleted this long after they were written.
    orphans_retention: timedelta = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnprovenDevices:
    """Devices that never reported and have stored no personal model.

    A phone that only asks for suggestions refreshes its token every day, which counts as a check-in.
    """

    #: Only devices last seen before then are deleted.
    seen_before: datetime
    #: Devices quarantined at this instant stay: enrolling again must not end a quarantine.
    now: datetime

    def include(self, device: DeviceRecord) -> bool:
        """Return whether the device is one of them."""
        is_kept_out = device.quarantined_until is not None and device.quarantined_until > self.now
        is_unproven = device.last_contributed_at is None and not device.has_head
        return is_unproven and not is_kept_out and device.last_seen_at < self.seen_before


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiredRows:
    """The rows and blobs that have expired."""

    #: Assignments of rounds that ended before this instant.
    rounds_ended_before: datetime
    #: Devices last seen, and personal models last written, before this instant.
    devices_seen_before: datetime
    #: Devices that never reported, which are deleted sooner.
    unproven: UnprovenDevices
    #: Live tasks that limit participations, or count each device once for two versions: their assignments
    #: are the count, and are not deleted.
    excluded_tasks: tuple[TaskName, ...]
    #: Blobs that no row points to and that were written before this instant.
    orphans_written_before: datetime
    versions: tuple[tuple[PopulationName, ModelVersion], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedRows:
    """The numbers of deleted rows, or of rows that would be deleted."""

    assignments: int
    devices: int
    heads: int
    versions: int


def expired_rows(
    policy: RetentionPolicy,
    now: datetime,
    populations: Iterable[PopulationRecord],
    versions: Iterable[VersionRecord],
    unfinished: Iterable[RoundRecord],
    tasks: Iterable[TaskRecord],
    releases: Iterable[ReleaseRecord],
) -> ExpiredRows:
    """Return the rows that the policy has expired at this instant.

    Args:
        policy: The policy.
        now: The instant.
        populations: All populations.
        versions: All versions.
        unfinished: The rounds that are not over.
        tasks: All tasks.
        releases: The rows of release histories whose versions stay.
    Guarantees:
        These never expire: a population's newest version; its parent, and the version before, which heads are
        mapped from; a version that keyboards may be served, or that their release may be rolled back to; a
        pinned one; the base version of an unfinished round; a version that an unfinished round or a live task
        compares; the assignments of a live task that limits participations, as one of kind ``evaluate`` does.
    """
    versions, unfinished = tuple(versions), tuple(unfinished)
    newest = {population.name: population.latest_version for population in populations}
    parents = {(one.population, one.parent) for one in versions if one.version == newest[one.population]}
    in_rounds = {(record.round.population, record.round.base_version) for record in unfinished}
    live = [task for task in tasks if not task.status.is_over]
    specs = [record.round.spec for record in unfinished] + [task.spec for task in live]
    compared = {(spec.population, version) for spec in specs for version in spec.comparison.versions}
    released = {(state.population, version) for state in releases for version in state.versions}
    versions_retained = max(policy.versions_retained, 2)
    old = tuple(
        (version.population, version.version)
        for version in versions
        if version.version <= newest[version.population] - versions_retained
        and (version.population, version.version) not in in_rounds | parents | released | compared
        and version.pinned_at is None
    )
    return ExpiredRows(
        excluded_tasks=tuple(
            task.name
            for task in live
            if task.spec.eligibility.max_participations is not None or task.spec.kind is TaskKind.EVALUATE
        ),
        rounds_ended_before=now - policy.assignments_retention,
        devices_seen_before=now - policy.devices_retention,
        unproven=UnprovenDevices(seen_before=now - policy.unproven_retention, now=now),
        orphans_written_before=now - policy.orphans_retention,
        versions=old,
    )
