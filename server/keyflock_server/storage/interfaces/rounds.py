"""The interface to rounds and their partial aggregates, and to what ends an assignment with them."""

from collections.abc import Collection
from datetime import datetime
from typing import Protocol, TypedDict

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import AssignmentId, RoundId, TaskName
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.round import Carried, Phase, RoundEvent, Summarised
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import (
    PartialRecord,
    RoundRecord,
    StagedVersion,
)


class RoundChanges(TypedDict, total=False):
    """Intermediate results of a round, which no event changes."""

    aggregate_key: str | None
    staged: StagedVersion | None


class RoundRepository(Protocol):
    """Stores rounds, their assignments and their partial aggregates.

    A caller changes a round by an event and never writes the row's new state itself: the row is read,
    advanced by the table of ``rounds.round`` and written in one transaction, so that several processes may do
    so at once.
    """

    async def add(self, record: RoundRecord) -> None:
        """Add a round.

        Raises:
            AlreadyExists: another process has opened this round, or the task has a round that is not over, or
                a round that compares the same two versions of the population is not over: a device that
                scored in both would be counted twice for them.
            PopulationGone: the population was deleted.
        """
        ...

    async def get(self, round_id: RoundId) -> RoundRecord | None:
        """Return the round of this id, or None."""
        ...

    async def list_by_task(
        self, task: TaskName, last: int | None = None, unreadable: list[UnreadableRow] | None = None
    ) -> list[RoundRecord]:
        """Return a task's rounds, ordered by sequence; only the newest ``last`` rounds, if given.

        Damaged rows are treated as in ``TaskRepository.all``.
        """
        ...

    async def phases(self, task: TaskName) -> dict[Phase, int]:
        """Count a task's rounds by phase; phases without a round are left out."""
        ...

    async def count(self, task: TaskName) -> tuple[int, int]:
        """Count a task's rounds: all that were opened, and those that are closed with a result."""
        ...

    async def unfinished(self, unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:
        """Return the rounds that are not over, oldest first; damaged rows as in ``TaskRepository.all``."""
        ...

    async def advance(
        self,
        round_id: RoundId,
        event: RoundEvent,
        at: datetime,
        changes: RoundChanges,
        *,
        audit: AuditContext | None = None,
    ) -> RoundRecord:
        """Apply an event to a round, change its other columns, and return it.

        Args:
            round_id: The round.
            event: What happens to it.
            at: The time of the event.
            changes: New values of its other columns.
            audit: The operator who decides on it, and why; None for what happens in the course of a round.
        Raises:
            Superseded: the event does not happen to the round as it stands now; nothing was changed.
        """
        ...

    async def expire(
        self,
        round_id: RoundId,
        before: datetime,
        *,
        excluded: Collection[AssignmentId] = (),
        rejected: Collection[AssignmentId] = (),
        now: datetime | None = None,
    ) -> tuple[RoundRecord, tuple[AssignmentId, ...]] | None:
        """Mark the assignments that have expired by then, and count a silence of their devices.

        A device whose assignment was cut short by the end of its round is not silent: see
        ``records.is_silence``. For an asynchronous task, assignments of earlier buffers are marked too.

        Args:
            round_id: The round. One that takes no device any more stays as it is, but its assignments expire.
            before: Assignments whose time ended at this instant or earlier expire.
            excluded: Assignments whose reports wait to be counted; they do not expire.
            rejected: Assignments whose reports arrived and were rejected: they expire without a silence.
            now: When the devices' facts change: other processes read what changed lately. None: ``before``.
        Returns:
            The round with these slots free again, and the expired assignments; None if there are none.
        """
        ...

    async def partials(self, round_id: RoundId) -> list[PartialRecord]:
        """Return the round's partial aggregates, ordered by replica."""
        ...

    async def carry(
        self, before: RoundId, event: Carried, after: RoundRecord, *, audit: AuditContext | None = None
    ) -> RoundRecord:
        """End a round, and open the next one with its partial aggregates.

        Args:
            before: The round that ends.
            event: Its end.
            after: The next round.
            audit: The operator who ends it before its time, and why; None at its deadline.
        Returns:
            The next round.
        Raises:
            Superseded: the round has changed, or its model version is not the newest any more.
        """
        ...

    async def publish(
        self,
        round_id: RoundId,
        version: VersionRecord,
        optimizer_state_key: str,
        at: datetime,
        norm_scales_json: bytes | None = None,
    ) -> RoundRecord:
        """Store a round's new version as the population's newest, with the task's optimiser state.

        Args:
            round_id: The round.
            version: The version that the round has made.
            optimizer_state_key: The new key of the optimiser's state.
            at: The time of publication.
            norm_scales_json: The task's new norm scales; None leaves them unchanged.
        Raises:
            Superseded: the round has changed, or the version's parent is not the newest version.
        """
        ...

    async def publish_personalisation(
        self,
        round_id: RoundId,
        event: Summarised,
        before: bytes | None,
        after: bytes | None,
        at: datetime,
    ) -> RoundRecord:
        """End a ``personalize`` round, and store its population's new personalisation.

        Args:
            round_id: The round.
            event: The round's result.
            before: The population's personalisation that ``after`` was computed from.
            after: The new personalisation; None leaves it unchanged.
            at: The time of publication.
        Raises:
            Superseded: the round or the population's personalisation has changed.
        """
        ...

    async def publish_evaluation(
        self, round_id: RoundId, event: Summarised, evaluation: EvaluationRecord, at: datetime
    ) -> RoundRecord:
        """End an ``evaluate`` round, and store its summed metrics.

        Raises:
            Superseded: the round has changed.
        """
        ...

    async def clear_up(self, round_id: RoundId) -> None:
        """Delete the rows of a finished round's partial aggregates and of forgotten devices' assignments."""
        ...
