"""Devices that come before their return window get the same refusal again, from memory.

Only refusals of this process count. A process that shares its store with others asks the store whether such a
device has an assignment, for that is always repeated; a sole process asks nothing.
"""

from collections.abc import Sequence
from datetime import timedelta

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.return_windows import ReturnWindows
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import Refusal, RefusalReason, ReturnWindow
from keyflock_server.rounds.selection import assignment_id
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import AssignmentRecord, AssignmentState


class EarlyCheckIns:
    """Remembers which devices this process has told to wait.

    Args:
        deps: The clock and the store.
        registry: The tasks. When one is added or changes its status, every device may come again: a phone
            that was told to wait for hours must not do so for a task that is there now.
    """

    def __init__(self, deps: Dependencies, registry: TaskRegistry) -> None:
        self._deps = deps
        self._registry = registry
        self._windows = ReturnWindows()
        self._statuses: dict[TaskName, TaskStatus] = {}

    async def repeated_refusal(self, device: DeviceId, tasks: Sequence[TaskState]) -> Refusal | None:
        """Return the device's last refusal again, if it comes too early and has no assignment.

        Args:
            device: The device that checks in.
            tasks: The tasks of its population.
        """
        statuses = {state.task: state.status for state in self._registry if not state.status.is_over}
        if statuses != self._statuses:
            self._windows.clear()
            self._statuses = statuses
        early = self._windows.repeated_refusal(device, self._deps.clock())
        if early is None or await self._has_assignment(device, tasks):
            return None
        return early

    def remember(self, device: DeviceId, refusal: Refusal) -> None:
        """Remember the refusal that the device gets."""
        self._windows.remember(device, refusal, self._deps.clock())

    def remember_work_done(self, device: DeviceId, window: ReturnWindow) -> None:
        """Remember that the device has done its work, and when it may come for more."""
        self.remember(
            device,
            Refusal(reason=RefusalReason.TOO_SOON, return_window=window, detail="It was here just now."),
        )

    def forget(self, device: DeviceId) -> None:
        """Forget the device's refusal, so that it may come at any time."""
        self._windows.forget(device)

    async def _has_assignment(self, device: DeviceId, tasks: Sequence[TaskState]) -> bool:
        for state in tasks:
            if has_open_assignment(self._deps, state, device):
                return True
            if state.open_round is not None and not self._deps.is_sole:
                known = await stored_assignment(self._deps, state, state.open_round, device)
                if known is not None and known.state is AssignmentState.ASSIGNED:
                    return True
        return False


def has_open_assignment(deps: Dependencies, state: TaskState, device: DeviceId) -> bool:
    """Return whether the open round waits for this device, as far as this process has seen."""
    if state.open_round is None:
        return False
    known = state.open_round.members.get(assignment_id(deps.sampling_key, state.open_round.id, device))
    return known is not None and known.state is AssignmentState.ASSIGNED


async def stored_assignment(
    deps: Dependencies, state: TaskState, opened: OpenRound, device: DeviceId
) -> AssignmentRecord | None:
    """Return the device's assignment from the store; for a buffer, also one of an earlier buffer."""
    known = await deps.store.assignments.get(opened.id, device)
    if known is None and opened.round.is_async:
        since = deps.clock() - timedelta(seconds=state.spec.round.deadline_s)
        known = await deps.store.assignments.find_outstanding(state.task, device, since)
    return known
