"""What the rows of a release history say together, and those that a store writes along with other changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.storage.operator_records import ReleaseRecord


def first_release(
    population: PopulationName, version: ModelVersion, at: datetime, audit: AuditContext
) -> ReleaseRecord:
    """Return row 0 of a new population's history: its version 0 is served to everybody."""
    return ReleaseRecord(
        population=population,
        sequence=0,
        at=at,
        action=ReleaseAction.CREATED,
        version=version,
        operator=audit.operator,
        reason=audit.reason,
    )


def release_after_rollback(
    state: ReleaseRecord,
    to: ModelVersion,
    released_before: ModelVersion,
    at: datetime,
    reason: str,
    audit: AuditContext,
) -> ReleaseRecord | None:
    """Return the row that a rollback of the population makes necessary; None if keyboards go on as they do.

    Args:
        state: The population's release state.
        to: The version that the population was rolled back to; all later ones are withdrawn.
        released_before: The last version that was served to everybody before, was not taken back by an
            operator, and still can be served.
        at: The time of the rollback.
        reason: The operator's reason.
        audit: Who has rolled back.
    """
    if all(one <= to for one in state.versions):
        return None
    return ReleaseRecord(
        population=state.population,
        sequence=state.sequence + 1,
        at=at,
        action=ReleaseAction.WITHDRAWN,
        version=released_before if state.version > to else state.version,
        operator=audit.operator,
        reason=reason,
    )


#: How many rows back a store looks for what was served before.
HISTORY: Final = 100


def rows_to_keep(history: Sequence[ReleaseRecord]) -> list[ReleaseRecord]:
    """Return the rows whose versions must stay: the present one, and that which a rollback would go back to.

    Args:
        history: The last rows, newest first.
    """
    before = versions_before(history)[:1]
    return [*history[:1], *(record for record in history if record.version in before)][:2]


def served_versions(history: Sequence[ReleaseRecord]) -> list[ModelVersion]:
    """Return the version that is served to everybody, and those before it as ``versions_before`` does."""
    return [record.version for record in history[:1]] + versions_before(history)


def versions_before(history: Sequence[ReleaseRecord]) -> list[ModelVersion]:
    """Return the versions that were served to everybody before the present one, the last one first.

    What was rolled back or withdrawn is not among them: rolling back twice goes back twice.

    Args:
        history: The last rows, newest first.
    """
    served: list[ModelVersion] = []
    for record in reversed(history):
        if record.version in served:
            del served[served.index(record.version) + 1 :]
        else:
            served.append(record.version)
    return served[-2::-1]
