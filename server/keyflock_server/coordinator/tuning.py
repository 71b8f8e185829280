"""Tuning gives stored rows to ``rounds.tuning``, which sets the task for its next round."""

from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.tuning import MAX_ASSIGNMENTS, MAX_ROUNDS, tuned
from keyflock_server.storage.interfaces.record_store import RecordStore


async def tuned_task(store: RecordStore, spec: TaskSpec) -> TaskSpec:
    """Return the task with the values of ``[round.auto]`` set from its last rounds, if it has that table."""
    if spec.round.auto is None:
        return spec
    return tuned(spec, await store.assignments.history(spec.name, MAX_ROUNDS, MAX_ASSIGNMENTS))
