"""Reads a population's release, and takes its steps: each is a row of its history, with an audit entry."""

from collections.abc import Sequence
from datetime import datetime

from keyflock_server.audit.context import GATE, POLICY, AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import population_unknown
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.release_state import (
    ACTION_OF,
    CANDIDATE_PHASES,
    PHASE_AFTER,
    ReleaseEvent,
    ReleaseState,
    advance_release,
)
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.release_rows import HISTORY


class ReleaseSteps:
    """Reads and moves the releases of all populations."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def newest(self, name: PopulationName) -> ReleaseRecord:
        """Return the row that is the population's release; raises ApiError ``population_unknown``."""
        record = await self._deps.store.releases.newest(name)
        if record is None:
            raise population_unknown()
        return record

    async def recent(self, name: PopulationName) -> list[ReleaseRecord]:
        """Return the last rows of a population's history, newest first."""
        return await self._deps.store.releases.page(name, None, HISTORY)

    async def take(
        self,
        before: ReleaseRecord,
        event: ReleaseEvent,
        *,
        audit: AuditContext,
        evidence_json: str | None = None,
    ) -> ReleaseRecord:
        """Take a step, and return the row that says so.

        Args:
            before: The row that the step was decided on.
            event: The step.
            audit: Who takes it and why.
            evidence_json: What the decision rests on.
        Raises:
            IllegalReleaseEvent: the step does not fit the release.
            Superseded: another step was taken meanwhile, or a version that is to be served is gone.
        """
        after = advance_release(state_of(before), event)
        record = ReleaseRecord(
            population=before.population,
            sequence=before.sequence + 1,
            at=audit.at,
            action=ACTION_OF[type(event)],
            version=after.version,
            candidate=after.candidate,
            percent=after.percent,
            operator=audit.operator,
            reason=audit.reason,
            evidence_json=evidence_json,
        )
        await self._deps.store.releases.append(record, audit=audit)
        self._deps.observer.release_stepped(
            record.population, record.action, record.version, record.candidate, record.percent
        )
        return record


def state_of(record: ReleaseRecord) -> ReleaseState:
    """Return the release that a row says."""
    return ReleaseState(
        phase=PHASE_AFTER[record.action],
        version=record.version,
        candidate=record.candidate,
        percent=record.percent,
    )


def is_operators(record: ReleaseRecord) -> bool:
    """Return whether an operator took the step, and not the server."""
    return record.operator not in (GATE, POLICY)


def newest_tried(history: Sequence[ReleaseRecord]) -> ModelVersion:
    """Return the newest version that was a candidate or served to everybody."""
    return max(version for record in history for version in record.versions)


def stage_began_at(history: Sequence[ReleaseRecord]) -> datetime | None:
    """Return when the candidate came to the stage that it is in; None without a candidate.

    Args:
        history: The last rows, newest first.
    """
    newest = history[0]
    if PHASE_AFTER[newest.action] not in CANDIDATE_PHASES:
        return None
    began_at = newest.at
    for record in history:
        if (record.candidate, record.percent) != (newest.candidate, newest.percent):
            break
        began_at = record.at
    return began_at
