"""A task's norm scales are computed once from the server's own reference, and moved by each of its rounds.

A round's row has the scales that it opened with, so that every replica judges each of its reports alike, also
after a restart. The task's row has those that its next round opens with.
"""

import asyncio

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.norm_histogram import NormHistogram
from keyflock_server.aggregation.norm_scale import (
    initial_scales,
    scales_after_round,
    scales_from_json,
    scales_to_json,
)
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.records import RoundRecord


class TaskScales:
    """Computes and stores the norm scales of tasks."""

    def __init__(self, deps: Dependencies, models: ModelStore) -> None:
        self._deps = deps
        self._models = models

    async def initial_scales(self, spec: TaskSpec) -> bytes | None:
        """Return the scales of a task that has had no round, as they are stored; None for evidence.

        This trains for seconds at the full size, in a thread of its own: reports of other tasks are decoded
        meanwhile.
        """
        if spec.kind is not TaskKind.TRAIN:
            return None
        newest = (await self._models.population(spec.population)).latest_version
        checkpoint = await self._models.checkpoint(spec.population, newest)
        return await asyncio.to_thread(_initial_scales, checkpoint, spec)

    async def next_scales(self, spec: TaskSpec) -> bytes | None:
        """Return the scales that the task's next round opens with; an earlier release has stored none."""
        task = await self._deps.store.tasks.get(spec.name)
        if task is None:
            raise StorageError(f"Task {spec.name} is gone; restore the database.")
        if task.norm_scales_json is not None or spec.kind is not TaskKind.TRAIN:
            return task.norm_scales_json
        initial = await self.initial_scales(spec)
        return None if initial is None else await self._deps.store.tasks.claim_norm_scales(spec.name, initial)

    async def after_round(self, record: RoundRecord, norms: NormHistogram) -> bytes | None:
        """Return the scales after a round that accepted reports of these norms; None leaves them."""
        before = record.norm_scales_json or await self.next_scales(record.round.spec)
        return None if before is None else scales_to_json(scales_after_round(scales_from_json(before), norms))


def _initial_scales(checkpoint: Checkpoint, spec: TaskSpec) -> bytes:
    from keyflock_server.aggregation.reference_delta import reference_delta

    delta = reference_delta(checkpoint, spec.training)
    return scales_to_json(initial_scales(delta, ParamLayout.for_config(checkpoint.config), spec.codecs))
