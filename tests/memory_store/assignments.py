"""Assignments in memory."""

from collections import Counter
from datetime import datetime

from tests.memory_store.rounds import MemoryRoundRepository
from tests.memory_store.rows import MemoryRows

from keyflock_server.protocol.identifiers import DeviceId, RoundId, TaskName
from keyflock_server.rounds.round import (
    Phase,
    Round,
)
from keyflock_server.rounds.tuning import RoundHistory
from keyflock_server.storage.errors import UnreadableRow
from keyflock_server.storage.records import (
    AssignmentRecord,
    AssignmentState,
    PastAssignment,
    round_history,
)


class MemoryAssignmentRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def list_by_round(self, round_id: RoundId) -> list[AssignmentRecord]:
        return [row for row in self._rows.assignments.values() if row.round_id == round_id]

    async def get(self, round_id: RoundId, device: DeviceId) -> AssignmentRecord | None:
        return self._rows.assignments.get((round_id, device))

    async def list_by_device(
        self, device: DeviceId, limit: int
    ) -> tuple[list[tuple[TaskName, AssignmentRecord]], int]:
        mine = [row for row in self._rows.assignments.values() if row.device == device]
        mine.sort(key=lambda row: (row.assigned_at, row.round_id), reverse=True)
        return [(self._rows.rounds[row.round_id].round.task, row) for row in mine[:limit]], len(mine)

    async def count_outstanding(self, task: TaskName, since: datetime, until: datetime) -> int:
        return sum(
            row.assigned_at <= until and not self._is_withdrawn(self._rows.rounds[row.round_id].round)
            for row in self._outstanding(task, since)
        )

    def _is_withdrawn(self, current: Round) -> bool:
        base = self._rows.versions.get((current.population, current.base_version))
        return base is not None and base.withdrawn_at is not None

    async def outstanding(
        self,
        since: datetime,
        *,
        task: TaskName | None = None,
        unreadable: list[UnreadableRow] | None = None,  # noqa: ARG002 - no row here is damaged
    ) -> list[tuple[TaskName, AssignmentRecord]]:
        tasks = {record.round.task for record in self._rows.rounds.values()} if task is None else {task}
        found = [(name, row) for name in sorted(tasks) for row in self._outstanding(name, since)]
        return sorted(found, key=lambda one: one[1].assigned_at)

    async def history(self, task: TaskName, rounds: int, assignments: int) -> RoundHistory:
        missed = (Phase.CARRIED, Phase.ABANDONED)
        telling = (Phase.PUBLISHED, Phase.CLOSED, *missed)
        mine = [one.round for one in reversed(await MemoryRoundRepository(self._rows).list_by_task(task))]
        ended = [one for one in mine if one.phase in telling and not one.is_accepted]
        past: list[PastAssignment] = []
        for current in ended[:rounds]:
            for row in sorted(await self.list_by_round(current.id), key=lambda one: one.device):
                if current.closed_at is not None and len(past) < assignments:
                    past.append(
                        PastAssignment(
                            row.state,
                            current.opened_at,
                            current.closed_at,
                            row.assigned_at,
                            row.counted_at,
                            row.expires_at,
                        )
                    )
        durations = [
            (current.opened_at, current.closed_at)
            for current in ended[:rounds]
            if current.closed_at is not None and current.phase not in missed
        ]
        return round_history(durations, past)

    async def participations(self, task: TaskName, device: DeviceId) -> int:
        return sum(
            row.device == device
            and row.state is AssignmentState.COUNTED
            and self._rows.rounds[row.round_id].round.task == task
            for row in self._rows.assignments.values()
        )

    async def participations_by_task(self, device: DeviceId) -> dict[TaskName, int]:
        return dict(
            Counter(
                self._rows.rounds[row.round_id].round.task
                for row in self._rows.assignments.values()
                if row.device == device and row.state is AssignmentState.COUNTED
            )
        )

    def _outstanding(self, task: TaskName, since: datetime) -> list[AssignmentRecord]:
        return [
            row
            for row in self._rows.assignments.values()
            if row.state is AssignmentState.ASSIGNED
            and row.assigned_at > since
            and self._rows.rounds[row.round_id].round.task == task
        ]
