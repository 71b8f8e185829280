"""From the last report to the next version, in steps that survive a crash between any two.

    CLOSING    write the aggregate                         → MERGED
    MERGED     step: new weights, new optimiser state      → STEPPED
    STEPPED    the version becomes the newest, the task's
               norm scales move with the round             → PUBLISHED
               or does not pass the checks                 → HELD
    PUBLISHED  delete what the round no longer needs       → CLOSED

A step is measured while its weights are in memory, and its figures are stored with it; ``releases.checks``
decides by them, so that whoever goes on from the row decides the same. A round that is held waits for an
operator: accepted, it goes on from STEPPED; discarded, it is over.

If another task has published meanwhile, the version to become the newest is not the newest's successor: the
round goes back from STEPPED to MERGED, and steps again from there.

A round of kind ``personalize`` makes no version:

    MERGED     the phones' mean becomes the population's priors → PUBLISHED

Each step writes its blobs under fresh names, then moves the row on in one transaction. A crash in between
leaves orphans, which are collected in time, and a row that says which step is to be done again. Two processes
may be at it at once: the row takes each step's event once, and whoever is second goes on from there.
"""

import contextlib
import json
from collections.abc import Iterable

from keyflock_models.arrays import F32
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_server.aggregation.norm_scale import stored_scales
from keyflock_server.aggregation.partial_aggregate import CorruptedAggregate, PartialAggregate
from keyflock_server.aggregation.population_personalisation import after_round, stored_personalisation
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.released_weights import ReleasedWeights
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk, next_checkpoint
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.checks import publishing_problem
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.releases.step_figures import StepFigures, step_figures
from keyflock_server.rounds.checks_policy import CHECKS_HISTORY
from keyflock_server.rounds.round import (
    Event,
    Held,
    Merged,
    PartialsDeleted,
    Phase,
    Rebased,
    Stepped,
    Summarised,
)
from keyflock_server.storage.door import Changes, StorageError, Superseded
from keyflock_server.storage.records import RoundRecord


class Closing:
    """Drives a round that takes no more reports to its end."""

    def __init__(self, world: Surroundings, trunk: Trunk, scales: TaskScales) -> None:
        self._world = world
        self._scales = scales
        self._trunk = trunk
        self._released = ReleasedWeights(world)

    async def finish(self, record: RoundRecord) -> RoundRecord:
        """The round, closed or held; does whatever steps are left.

        Raises:
            StorageError: a step could not be written; call again, nothing is lost.
        """
        if record.round.phase is Phase.HELD:
            # An operator may have decided meanwhile, through whichever process.
            record = await self._world.store.rounds.get(record.round.id) or record
        while not (record.round.is_over or record.round.phase is Phase.HELD):
            try:
                record = await self._next_step(record)
            except (Superseded, StorageError) as error:
                current = await self._world.store.rounds.get(record.round.id)
                if current is None:
                    raise StorageError(f"Round {record.round.id} is gone; restore the database.") from None
                # Another process may have gone further, and deleted what this step was about to read.
                if isinstance(error, StorageError) and current == record:
                    raise
                record = current
        return record

    async def _next_step(self, record: RoundRecord) -> RoundRecord:
        match record.round.phase:
            case Phase.CLOSING:
                return await self._merge(record)
            case Phase.MERGED if record.round.spec.kind is TaskKind.PERSONALIZE:
                return await self._summarise(record)
            case Phase.MERGED:
                return await self._step(record)
            case Phase.STEPPED:
                return await self._publish(record)
            case Phase.PUBLISHED:
                return await self._delete_partials(record)
            case phase:
                raise AssertionError(f"a round that is {phase} is not closing")

    async def delete_partials(self, record: RoundRecord) -> None:
        """Delete the round's intermediate sums, their rows last."""
        rows = await self._world.store.rounds.partials(record.round.id)
        keys = [row.key for row in rows] + ([record.aggregate_key] if record.aggregate_key else [])
        await self.delete_blobs(keys)
        await self._world.store.rounds.clear_up(record.round.id)

    async def delete_blobs(self, keys: Iterable[str]) -> None:
        """Delete what nothing points to any more; what cannot be deleted is collected in time."""
        for key in keys:
            with contextlib.suppress(StorageError):
                await self._world.blobs.delete(key)

    async def _aggregate(self, key: str, size: int) -> PartialAggregate:
        data = await self._world.blobs.get(key)
        try:
            return await self._world.workbench.run(PartialAggregate.from_bytes, data, size)
        except CorruptedAggregate as error:
            raise StorageError(
                f"Blob {key} is damaged ({error}); restore it from a backup, or cancel the task."
            ) from None

    async def _merge(self, record: RoundRecord) -> RoundRecord:
        world = self._world
        layout = await self._trunk.report_layout(record.round.spec)
        merged = PartialAggregate(layout.size)
        for row in await world.store.rounds.partials(record.round.id):
            partial = await self._aggregate(row.key, layout.size)
            merged = await world.workbench.run(merged.merged, partial)
        if merged.count != record.round.reports:
            raise StorageError(
                f"Round {record.round.id} counted {record.round.reports} reports, its partials hold "
                f"{merged.count}; restore the database and the blobs of one moment."
            )
        key = f"aggregates/{record.round.id}/{world.new_id()}"
        await world.blobs.put(key, await world.workbench.run(merged.to_bytes))
        return await self._advanced(record, Merged(), {"aggregate_key": key})

    async def _step(self, record: RoundRecord) -> RoundRecord:
        world, current = self._world, record.round
        task = await world.store.tasks.get(current.task)
        if task is None or record.aggregate_key is None:
            raise StorageError(
                f"Round {current.id} has lost its task or its aggregate; restore the database."
            )
        state = await world.blobs.get(task.optimizer_state_key) if task.optimizer_state_key else None
        base = (await self._trunk.population(current.population)).latest_version
        checkpoint = await self._trunk.checkpoint(current.population, base)
        aggregate = await self._aggregate(record.aggregate_key, checkpoint.weights.size)
        mean_delta = await world.workbench.run(aggregate.mean)
        stepped = await world.workbench.run(
            server_step,
            checkpoint.weights,
            state,
            mean_delta,
            current.spec.optimizer.name,
            current.spec.optimizer_parameters,
            current.spec.optimizer.schedule,
        )
        figures = await self._measured(record, base, checkpoint, stepped.weights, mean_delta)
        if figures.non_finite_weights:
            # Nobody can want such a version: none of it is written, and the checks hold the round.
            return await self._advanced(record, Stepped(figures.to_json()), {"stepped_from": base})
        lineage = {"parent": str(base), "round": current.id, "reports": str(current.reports)}
        version = ModelVersion(base + 1)
        after = next_checkpoint(checkpoint, stepped.weights, lineage)
        stored = await self._trunk.store(current.population, version, after)
        state_key = f"optimizers/{current.task}/{world.new_id()}"
        await world.blobs.put(state_key, stepped.state)
        layout = await self._trunk.layout(current.population)
        keys = await self._released.write(record, checkpoint.weights, stepped.weights, layout)
        changes: Changes = {
            "stepped_from": base,
            "checkpoint_key": stored.checkpoint_key,
            "download_key": stored.download_key,
            "state_key": state_key,
            "average_key": keys.average_key,
            "released_key": keys.released_key,
        }
        return await self._advanced(record, Stepped(figures.to_json()), changes)

    async def _measured(
        self, record: RoundRecord, base: ModelVersion, before: Checkpoint, weights: F32, mean_delta: F32
    ) -> StepFigures:
        population = await self._trunk.population(record.round.population)
        version = await self._trunk.any_version(record.round.population, base)

        def measured() -> StepFigures:
            return step_figures(
                before,
                weights,
                mean_delta,
                loss_before=version.anchor_loss,
                loss_chosen=population.anchor_loss_chosen,
            )

        return await self._world.workbench.run(measured)

    async def _history(self, record: RoundRecord) -> list[StepFigures]:
        """What was measured of the task's last rounds whose versions were not withdrawn."""
        current, rounds = record.round, self._world.store.rounds
        withdrawn = await self._world.store.populations.withdrawn(current.population)
        past = [one.round for one in await rounds.of_task(current.task, last=4 * CHECKS_HISTORY)]
        made = [
            one.figures_json
            for one in past
            if one.is_committed and one.figures_json and one.result_version not in withdrawn
        ]
        return [StepFigures.from_json(stored) for stored in made[-CHECKS_HISTORY:]]

    async def _summarise(self, record: RoundRecord) -> RoundRecord:
        world, current = self._world, record.round
        if record.aggregate_key is None:
            raise StorageError(f"Round {current.id} has lost its aggregate; restore the database.")
        aggregate = await self._aggregate(record.aggregate_key, EVIDENCE_LAYOUT.size)
        settings = current.spec.personalising
        before = (await self._trunk.population(current.population)).personalisation_json
        after, figures = after_round(
            None if before is None else stored_personalisation(before),
            aggregate.mean(),
            aggregate.count,
            minimum=current.spec.round.minimum_reports,
            tried=settings.head_of(current.sequence),
            candidates=settings.heads,
            round_id=current.id,
        )
        moved = await world.store.rounds.publish_personalisation(
            current.id,
            Summarised(json.dumps(figures)),
            before,
            None if after is None else after.to_json(),
            world.clock(),
        )
        world.observer.priors_published(current.population, aggregate.count)
        return moved

    async def _publish(self, record: RoundRecord) -> RoundRecord:
        world, current, base = self._world, record.round, record.stepped_from
        is_newest = (await self._trunk.population(current.population)).latest_version == base
        # A step of a release that measured nothing is made again, too.
        if not is_newest or not current.figures_json:
            return await self._rebase(record)
        figures = StepFigures.from_json(current.figures_json)
        if not current.is_accepted:
            is_clipped = current.spec.aggregation.clip_norm_ratio > 0.0
            problem = publishing_problem(
                figures,
                await self._history(record),
                current.spec.checks,
                # Without a scale, nothing is clipped.
                is_clipped=is_clipped and bool(stored_scales(record.norm_scales_json)),
            )
            if problem:
                return await self._hold(record, problem)
        download_key, checkpoint_key, state_key = record.download_key, record.checkpoint_key, record.state_key
        if base is None or download_key is None or checkpoint_key is None or state_key is None:
            raise StorageError(f"Round {current.id} has lost what its step wrote; restore the database.")
        body = await world.blobs.get(download_key)
        released = await self._released.fields(record)
        version = VersionRecord(
            population=current.population,
            version=ModelVersion(base + 1),
            parent=base,
            round_id=current.id,
            created_at=world.clock(),
            download_digest=download_digest(body),
            download_bytes=len(body),
            download_key=download_key,
            checkpoint_key=checkpoint_key,
            released_digest=released.released_digest,
            released_bytes=released.released_bytes,
            released_key=released.released_key,
            anchor_loss=figures.anchor_loss,
            note=current.detail if current.is_accepted else "",
        )
        averages = await self._released.superseded(record)
        task = await world.store.tasks.get(current.task)
        superseded = task.optimizer_state_key if task else None
        scales = await self._scales_after(record)
        after = await world.store.rounds.publish(current.id, version, state_key, world.clock(), scales)
        world.observer.version_published(current.population, version.version)
        await self.delete_blobs((*averages, *((superseded,) if superseded else ())))
        return after

    async def _scales_after(self, record: RoundRecord) -> bytes | None:
        """The task's norm scales, moved by the reports of this round; None where their sum is lost by now."""
        layout = await self._trunk.report_layout(record.round.spec)
        try:
            aggregate = await self._aggregate(record.aggregate_key or "", layout.size)
        except StorageError:
            return None  # the version is made, and the scales may as well stay
        return await self._scales.after_round(record, aggregate.norms)

    async def _hold(self, record: RoundRecord, problem: str) -> RoundRecord:
        after = await self._advanced(record, Held(problem), {})
        self._world.observer.round_held(after.round.task, after.round.sequence, problem)
        return after

    async def _rebase(self, record: RoundRecord) -> RoundRecord:
        """Another version is the newest since the step: step again, from that one."""
        nothing: Changes = {
            "stepped_from": None,
            "checkpoint_key": None,
            "download_key": None,
            "state_key": None,
            "average_key": None,
            "released_key": None,
        }
        after = await self._advanced(record, Rebased(), nothing)
        keys = (
            record.checkpoint_key,
            record.download_key,
            record.state_key,
            record.average_key,
            record.released_key,
        )
        await self.delete_blobs(key for key in keys if key)
        return after

    async def _delete_partials(self, record: RoundRecord) -> RoundRecord:
        await self.delete_partials(record)
        cleared: Changes = {
            "aggregate_key": None,
            "checkpoint_key": None,
            "download_key": None,
            "state_key": None,
            "average_key": None,
            "released_key": None,
        }
        return await self._advanced(record, PartialsDeleted(), cleared)

    async def _advanced(self, record: RoundRecord, event: Event, changes: Changes) -> RoundRecord:
        return await self._world.store.rounds.advance(record.round.id, event, self._world.clock(), changes)
