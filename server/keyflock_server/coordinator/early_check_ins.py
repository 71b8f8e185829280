"""Devices that come before their window: answered from memory, with what they were told, and without a slot.

Only this process's own words count. One that shares its store with others asks the store whether such a
device has an assignment, for that is always repeated; alone, it asks nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from keyflock_server.coordinator.desk import Desk, OpenRound
from keyflock_server.coordinator.return_windows import ReturnWindows
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow
from keyflock_server.rounds.selection import assignment_id
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import AssignmentRecord, AssignmentState


class EarlyCheckIns:
    """Knows whom this process has told to wait.

    Args:
        world: The clock and the store.
        desks: All tasks. When one comes or changes its status, everybody may come again: a phone that was
            told to wait for hours must not do so for a task that is there now.
    """

    def __init__(self, world: Surroundings, desks: Mapping[TaskName, Desk]) -> None:
        self._world = world
        self._desks = desks
        self._windows = ReturnWindows()
        self._statuses: dict[TaskName, TaskStatus] = {}

    async def answer(self, device: DeviceId, desks: Sequence[Desk]) -> Refusal | None:
        """Return what the device was told, if it comes too early and has no assignment.

        Args:
            device: Who asks.
            desks: The tasks of its population.
        """
        statuses = {task: desk.status for task, desk in self._desks.items()}
        if statuses != self._statuses:
            self._windows.clear()
            self._statuses = statuses
        early = self._windows.early(device, self._world.clock())
        if early is None or await self._has_assignment(device, desks):
            return None
        return early

    def tell(self, device: DeviceId, refusal: Refusal) -> None:
        """Remember what the device is told."""
        self._windows.tell(device, refusal, self._world.clock())

    def rest(self, device: DeviceId, window: ReturnWindow) -> None:
        """Remember that the device has done its work, and when it may come for more."""
        self.tell(
            device,
            Refusal(reason=RefusalReason.TOO_SOON, return_window=window, detail="It was here just now."),
        )

    def forget(self, device: DeviceId) -> None:
        """Let the device come whenever it wants."""
        self._windows.forget(device)

    async def _has_assignment(self, device: DeviceId, desks: Sequence[Desk]) -> bool:
        for desk in desks:
            if waits_for(self._world, desk, device):
                return True
            if desk.open is not None and not self._world.is_sole:
                known = await stored_assignment(self._world, desk, desk.open, device)
                if known is not None and known.state is AssignmentState.ASSIGNED:
                    return True
        return False


def waits_for(world: Surroundings, desk: Desk, device: DeviceId) -> bool:
    """Whether the open round waits for this device, as far as this process has seen."""
    if desk.open is None:
        return False
    known = desk.open.members.get(assignment_id(world.sampling_key, desk.open.id, device))
    return known is not None and known.state is AssignmentState.ASSIGNED


async def stored_assignment(
    world: Surroundings, desk: Desk, opened: OpenRound, device: DeviceId
) -> AssignmentRecord | None:
    """Return the device's assignment as the store has it; of a buffer, one of an earlier buffer too."""
    known = await world.store.rounds.assignment(opened.id, device)
    if known is None and opened.round.is_async:
        since = world.clock() - timedelta(seconds=desk.spec.round.deadline_s)
        known = await world.store.rounds.outstanding_of(desk.task, device, since)
    return known
