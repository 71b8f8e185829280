"""The task as its next round should run it: rows to ``rounds.tuning``."""

from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.tuning import ASSIGNMENTS, ROUNDS, tuned
from keyflock_server.storage.door import Store


async def tuned_task(store: Store, spec: TaskSpec) -> TaskSpec:
    """The task with what ``[round.auto]`` names set from its last rounds; unchanged without that table."""
    if spec.round.auto is None:
        return spec
    return tuned(spec, await store.rounds.history(spec.name, ROUNDS, ASSIGNMENTS))
