"""From the last report to the next version, in steps that survive a crash between any two.

    CLOSING    write the aggregate                         → MERGED
    MERGED     step: new weights, new optimiser state      → STEPPED
    STEPPED    the version becomes the newest              → PUBLISHED
    PUBLISHED  delete what the round no longer needs       → CLOSED

A round of kind ``personalize`` makes no version:

    MERGED     the phones' mean becomes the population's priors → PUBLISHED

Each step writes its blobs under fresh names, then moves the row on in one transaction. A crash in between
leaves orphans, which the next start collects, and a row that says which step is to be done again.
"""

import contextlib
import json
from dataclasses import replace

from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.population_personalisation import after_round
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.coordinator.released_weights import ReleasedWeights
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk, next_checkpoint
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.rounds.round import (
    Event,
    Merged,
    PartialsDeleted,
    Phase,
    Published,
    Stepped,
    Summarised,
    advance,
)
from keyflock_server.storage.door import StorageError
from keyflock_server.storage.records import RoundRecord


class Closing:
    """Drives a round that takes no more reports to its end."""

    def __init__(self, world: Surroundings, trunk: Trunk) -> None:
        self._world = world
        self._trunk = trunk
        self._released = ReleasedWeights(world)

    async def finish(self, record: RoundRecord) -> RoundRecord:
        """The round, closed; does whatever steps are left.

        Raises:
            StorageError: a step could not be written; call again, nothing is lost.
        """
        while not record.round.is_over:
            match record.round.phase:
                case Phase.CLOSING:
                    record = await self._merge(record)
                case Phase.MERGED if record.round.spec.kind is TaskKind.PERSONALIZE:
                    record = await self._summarise(record)
                case Phase.MERGED:
                    record = await self._step(record)
                case Phase.STEPPED:
                    record = await self._publish(record)
                case Phase.PUBLISHED:
                    record = await self._delete_partials(record)
                case phase:
                    raise AssertionError(f"a round that is {phase} is not closing")
        return record

    async def delete_blobs(self, keys: tuple[str, ...]) -> None:
        """Delete what nothing points to any more; what cannot be deleted is collected at the next start."""
        for key in keys:
            with contextlib.suppress(StorageError):
                await self._world.blobs.delete(key)

    async def _merge(self, record: RoundRecord) -> RoundRecord:
        world = self._world
        layout = await self._trunk.report_layout(record.round.spec)
        merged = PartialAggregate(layout.size)
        for key in (record.partial_key,) if record.partial_key else ():
            data = await world.blobs.get(key)
            partial = await world.workbench.run(PartialAggregate.from_bytes, data, layout.size)
            merged = await world.workbench.run(merged.merged, partial)
        if merged.count != record.round.counted:
            raise StorageError(
                f"Round {record.round.id} counted {record.round.counted} reports, its partial holds "
                f"{merged.count}; restore the database and the blobs of one moment."
            )
        key = f"aggregates/{record.round.id}/{world.new_id()}"
        await world.blobs.put(key, await world.workbench.run(merged.to_bytes))
        return await self._advanced(replace(record, aggregate_key=key), Merged())

    async def _step(self, record: RoundRecord) -> RoundRecord:
        world, current = self._world, record.round
        task = await world.store.tasks.get(current.task)
        if task is None or record.aggregate_key is None:
            raise StorageError(
                f"Round {current.id} has lost its task or its aggregate; restore the database."
            )
        state = await world.blobs.get(task.optimizer_state_key) if task.optimizer_state_key else None
        checkpoint = await self._trunk.checkpoint(current.population, current.base_version)
        data = await world.blobs.get(record.aggregate_key)
        aggregate = await world.workbench.run(PartialAggregate.from_bytes, data, checkpoint.weights.size)
        stepped = await world.workbench.run(
            server_step,
            checkpoint.weights,
            state,
            await world.workbench.run(aggregate.mean),
            current.spec.optimizer.name,
            current.spec.optimizer_parameters,
            current.spec.optimizer.schedule,
        )
        lineage = {"parent": str(current.base_version), "round": current.id, "reports": str(current.counted)}
        version = ModelVersion(current.base_version + 1)
        after = next_checkpoint(checkpoint, stepped.weights, lineage)
        stored = await self._trunk.store(current.population, version, after)
        state_key = f"optimizers/{current.task}/{world.new_id()}"
        await world.blobs.put(state_key, stepped.state)
        layout = await self._trunk.layout(current.population)
        keys = await self._released.write(record, checkpoint.weights, stepped.weights, layout)
        moved = replace(
            record,
            checkpoint_key=stored.checkpoint_key,
            download_key=stored.download_key,
            state_key=state_key,
            average_key=keys.average_key,
            released_key=keys.released_key,
        )
        return await self._advanced(moved, Stepped())

    async def _summarise(self, record: RoundRecord) -> RoundRecord:
        world, current = self._world, record.round
        if record.aggregate_key is None:
            raise StorageError(f"Round {current.id} has lost its aggregate; restore the database.")
        data = await world.blobs.get(record.aggregate_key)
        aggregate = await world.workbench.run(PartialAggregate.from_bytes, data, EVIDENCE_LAYOUT.size)
        settings = current.spec.personalising
        after, figures = after_round(
            await self._trunk.personalisation(current.population),
            aggregate.mean(),
            aggregate.count,
            minimum=current.spec.round.minimum_reports,
            tried=settings.head_of(current.sequence),
            candidates=settings.heads,
            round_id=current.id,
        )
        moved = replace(record, round=advance(current, Summarised(json.dumps(figures)), world.clock()))
        await world.store.rounds.publish_personalisation(moved, None if after is None else after.to_json())
        world.observer.priors_published(current.population, aggregate.count)
        return moved

    async def _publish(self, record: RoundRecord) -> RoundRecord:
        world, current = self._world, record.round
        if record.download_key is None or record.checkpoint_key is None or record.state_key is None:
            raise StorageError(f"Round {current.id} has lost what its step wrote; restore the database.")
        body = await world.blobs.get(record.download_key)
        released = await self._released.fields(record)
        version = VersionRecord(
            population=current.population,
            version=ModelVersion(current.base_version + 1),
            parent=current.base_version,
            round_id=current.id,
            created_at=world.clock(),
            download_digest=download_digest(body),
            download_bytes=len(body),
            download_key=record.download_key,
            checkpoint_key=record.checkpoint_key,
            released_digest=released.released_digest,
            released_bytes=released.released_bytes,
            released_key=released.released_key,
        )
        averages = await self._released.superseded(record)
        task = await world.store.tasks.get(current.task)
        superseded = task.optimizer_state_key if task else None
        after = replace(record, round=advance(current, Published(version.version), world.clock()))
        await world.store.rounds.publish(after, version, record.state_key)
        world.observer.version_published(current.population, version.version)
        await self.delete_blobs((*averages, *((superseded,) if superseded else ())))
        return after

    async def _delete_partials(self, record: RoundRecord) -> RoundRecord:
        keys = tuple(key for key in (record.partial_key, record.aggregate_key) if key is not None)
        await self.delete_blobs(keys)
        await self._world.store.rounds.purge_forgotten(record.round.id)
        cleared = replace(
            record,
            partial_key=None,
            aggregate_key=None,
            checkpoint_key=None,
            download_key=None,
            state_key=None,
            average_key=None,
            released_key=None,
        )
        return await self._advanced(cleared, PartialsDeleted())

    async def _advanced(self, record: RoundRecord, event: Event) -> RoundRecord:
        after = replace(record, round=advance(record.round, event, self._world.clock()))
        await self._world.store.rounds.save(after)
        return after
