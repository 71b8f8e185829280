"""Tasks as they are stored: with ids in place of the names that the operator wrote."""

import msgspec

from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.numbered_names import NumberedName
from keyflock_server.rounds.task import TaskHeader, TaskSpec


class _StoredHeader(TaskHeader, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: NumberedName
    population: NumberedName


class _StoredTask(TaskSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    task: _StoredHeader


def stored_task(data: bytes) -> TaskSpec:
    """Return the task that ``TaskSpec.to_json`` encoded."""
    stored = msgspec.json.decode(data, type=_StoredTask)
    header = TaskHeader(**msgspec.structs.asdict(stored.task))
    return TaskSpec(**(msgspec.structs.asdict(stored) | {"task": header}))


def with_ids(spec: TaskSpec, name: TaskName, population: PopulationName) -> TaskSpec:
    """Return an operator's task under its id, for the population of this id."""
    return msgspec.structs.replace(
        spec, task=msgspec.structs.replace(spec.task, name=name, population=population)
    )
