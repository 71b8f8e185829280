"""Operators name a task by its name, which means the newest of that name, or with a number: ``name~1``."""

from collections.abc import Iterable

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.numbered_names import address, base_name, next_id, number_of
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
        return (await self.addresses([id_]))[id_]

    async def addresses(self, ids: Iterable[TaskName]) -> dict[TaskName, str]:
        """Return how an operator names each of these tasks now, by one query.

        Ids are used in the order of their numbers: a task is its name's newest if no task has the next id.
        """
        following = {id_: next_id(base_name(id_), [id_]) for id_ in ids}
        used = await self._deps.store.listings.used_ids(
            [one for one in following.values() if one is not None]
        )
        return {
            id_: address(base_name(id_), number_of(id_) or 1) if after in used else base_name(id_)
            for id_, after in following.items()
        }
