"""Before an open round can be found in memory, all is read that check-ins into it need."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from keyflock_server.coordinator.assignment_builder import AssignmentBuilder
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.pace_steering import PaceSteering
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.protocol.problems import ApiError
from keyflock_server.rounds.round import Round
from keyflock_server.storage.records import AssignmentRecord


@dataclass(frozen=True, slots=True)
class PreparedRound:
    """What was read for a round."""

    #: Its stored assignments; those of a buffer that follows another one are in memory already.
    members: Sequence[AssignmentRecord]
    #: The size of the download that its devices begin with; None if there is no such version any more.
    download_bytes: int | None

    def hand_over(self, opened: OpenRound, before: OpenRound | None, deps: Dependencies) -> None:
        """Give the round what was read, and to a buffer what may be assigned in the buffers before it."""
        if self.download_bytes is not None:
            opened.download_bytes[opened.round.base_version] = self.download_bytes
        rows = self.members
        if before is not None and before.round.is_async and opened.round.is_async:
            rows = before.outstanding(deps.clock())
            opened.unsure_slots = before.unsure_slots
        opened.members.update((row.id, row) for row in rows)


class RoundPreparation:
    """Reads a round's members, the size of its download, and the statistics of its task."""

    def __init__(self, deps: Dependencies, assignments: AssignmentBuilder, pace: PaceSteering) -> None:
        self._deps = deps
        self._assignments = assignments
        self._pace = pace

    async def prepare(self, state: TaskState, current: Round) -> PreparedRound:
        """Read what check-ins into a round need; the task still has the round before it, if any."""
        size = None
        with contextlib.suppress(ApiError):  # the version was pruned: every check-in will say so
            size = await self._assignments.download_bytes(current)
        await self._pace.prepare_round(state, current)
        return PreparedRound(await self._members(state, current), size)

    async def _members(self, state: TaskState, current: Round) -> Sequence[AssignmentRecord]:
        assignments = self._deps.store.assignments
        if not current.is_async:
            return await assignments.list_by_round(current.id) if current.assigned else ()
        if state.open_round is not None and state.open_round.round.is_async:
            return ()
        since = self._deps.clock() - timedelta(seconds=current.spec.round.deadline_s)
        return [row for _, row in await assignments.outstanding(since, task=state.task)]
