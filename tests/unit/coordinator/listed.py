"""What an operator would see in lists that are short enough for one page."""

from keyflock_server.coordinator import Coordinator
from keyflock_server.protocol.operator.devices import DeviceQuery, DeviceView
from keyflock_server.protocol.operator.pages import MAX_LIMIT
from keyflock_server.protocol.operator.populations import PopulationView
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator.tasks import TaskView


async def listed_populations(coordinator: Coordinator) -> list[PopulationView]:
    """All populations, ordered by id."""
    return (await coordinator.lists.populations(None, MAX_LIMIT, is_archived=None)).items


async def listed_tasks(coordinator: Coordinator) -> list[TaskView]:
    """All tasks, oldest first."""
    return (await coordinator.lists.tasks(None, MAX_LIMIT)).items


async def listed_rounds(coordinator: Coordinator, task: str) -> list[RoundView]:
    """All rounds of a task, oldest first."""
    return (await coordinator.lists.rounds(None, MAX_LIMIT, task=task)).items[::-1]


async def listed_devices(coordinator: Coordinator, population: str) -> list[DeviceView]:
    """All devices of a population, ordered by id."""
    return (await coordinator.lists.devices(population, None, MAX_LIMIT, DeviceQuery())).items
