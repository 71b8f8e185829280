"""Operators name a task by its name, which means the newest of that name, or with a number: ``name~1``."""

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.numbered_names import address, base_name, number_of
from keyflock_server.protocol.problems import ApiError, ProblemCode


class TaskAddresses:
    """Finds the task that an operator means, and says how an operator names a task."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def find(self, text: str) -> TaskName:
        """Return the id of the task that an operator names; raises ApiError ``task_unknown``."""
        name, number = TaskName(base_name(text)), number_of(text)
        used = await self._deps.store.tasks.ids_of(name)
        if text != name:
            used = [id_ for id_ in used if (number_of(id_) or 1) == number]
        if not used:
            raise ApiError(ProblemCode.TASK_UNKNOWN, "There is no such task here.")
        return used[-1]

    async def address(self, id_: TaskName) -> str:
        """Return how an operator names this task now."""
        name = base_name(id_)
        used = await self._deps.store.tasks.ids_of(name)
        return name if not used or used[-1] == id_ else address(name, number_of(id_) or 1)
