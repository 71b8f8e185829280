"""The rows of the release history that a store writes along with other changes, the same for every store."""

from datetime import datetime

from keyflock_server.audit.context import POLICY, AuditContext
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.storage.operator_records import ReleaseAction, ReleaseRecord


def first_release(
    population: PopulationName, version: ModelVersion, at: datetime, audit: AuditContext | None
) -> ReleaseRecord:
    """Return row 0 of a new population's history: its version 0 is served to everybody."""
    return ReleaseRecord(
        population=population,
        sequence=0,
        at=at,
        action=ReleaseAction.CREATED,
        version=version,
        operator=POLICY if audit is None else audit.operator,
        reason="" if audit is None else audit.reason,
    )


def release_after_rollback(
    state: ReleaseRecord,
    to: ModelVersion,
    version: ModelVersion,
    at: datetime,
    reason: str,
    audit: AuditContext | None,
) -> ReleaseRecord | None:
    """Return the row that a rollback of the population makes necessary; None if keyboards go on as they do.

    Args:
        state: The population's release state.
        to: The version that the population was rolled back to; all later ones are withdrawn.
        version: Its copy, which is now the newest.
        at: The time of the rollback.
        reason: The operator's reason.
        audit: Who has rolled back; None where nobody is recorded.
    """
    if all(one <= to for one in state.versions):
        return None
    return ReleaseRecord(
        population=state.population,
        sequence=state.sequence + 1,
        at=at,
        action=ReleaseAction.ROLLED_BACK,
        version=version if state.version > to else state.version,
        operator=POLICY if audit is None else audit.operator,
        reason=reason,
    )
