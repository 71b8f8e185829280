"""The norm scales of tasks: made once a task from the server's own reference, moved by each of its rounds.

A round carries the scales that it opened with in its row, so that every replica judges each of its reports
alike, also after a restart. The task's row has those that its next round opens with.
"""

import asyncio

from keyflock_models.checkpoint import Checkpoint
from keyflock_models.layout import ParamLayout
from keyflock_server.aggregation.norm_histogram import NormHistogram
from keyflock_server.aggregation.norm_scale import (
    beginning_scales,
    scales_after_round,
    scales_to_json,
    stored_scales,
)
from keyflock_server.aggregation.reference_delta import reference_delta
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.door import StorageError
from keyflock_server.storage.records import RoundRecord


class TaskScales:
    """Gives each task its scales."""

    def __init__(self, world: Surroundings, trunk: Trunk) -> None:
        self._world = world
        self._trunk = trunk

    async def beginning(self, spec: TaskSpec) -> bytes | None:
        """Return the scales of a task that has had no round, as they are stored; None for evidence.

        This trains for seconds at the full size, in a thread of its own: reports of other tasks are decoded
        meanwhile.
        """
        if spec.kind is not TaskKind.TRAIN:
            return None
        newest = (await self._trunk.population(spec.population)).latest_version
        checkpoint = await self._trunk.checkpoint(spec.population, newest)
        return await asyncio.to_thread(_beginning, checkpoint, spec)

    async def of_task(self, spec: TaskSpec) -> bytes | None:
        """Return the scales that the task's next round opens with; an earlier release has stored none."""
        task = await self._world.store.tasks.get(spec.name)
        if task is None:
            raise StorageError(f"Task {spec.name} is gone; restore the database.")
        if task.norm_scales_json is not None or spec.kind is not TaskKind.TRAIN:
            return task.norm_scales_json
        made = await self.beginning(spec)
        return None if made is None else await self._world.store.tasks.claim_norm_scales(spec.name, made)

    async def after_round(self, record: RoundRecord, norms: NormHistogram) -> bytes | None:
        """Return the scales after a round that accepted reports of these norms; None leaves them."""
        before = record.norm_scales_json or await self.of_task(record.round.spec)
        return None if before is None else scales_to_json(scales_after_round(stored_scales(before), norms))


def _beginning(checkpoint: Checkpoint, spec: TaskSpec) -> bytes:
    delta = reference_delta(checkpoint, spec.training)
    return scales_to_json(beginning_scales(delta, ParamLayout.of(checkpoint.config), spec.codecs))
