"""The round finalizer makes the next version from a round's sum, in steps that survive any crash.

    CLOSING    write the aggregate                         → MERGED
    MERGED     step: new weights, new optimiser state      → STEPPED
    STEPPED    the version becomes the newest, the task's
               norm scales move with the round             → PUBLISHED
               or does not pass the checks                 → HELD
    PUBLISHED  delete what the round no longer needs       → CLOSED

A step is measured while its weights are in memory, and its figures are stored with it; ``releases.checks``
decides by them, so that any process that goes on from the row decides the same. A held round waits for an
operator: if it is accepted, it goes on from STEPPED; if it is discarded, it is over.

If another task has published meanwhile, the stepped version does not follow the newest one: the round goes
back from STEPPED to MERGED and steps again.

A round of kind ``personalize`` makes no version:

    MERGED     the phones' mean becomes the population's priors → PUBLISHED

Nor does one of kind ``evaluate``:

    MERGED     the phones' sums are stored as an evaluation     → PUBLISHED

Each step writes its blobs under fresh names, then moves the row on in one transaction. A crash in between
leaves orphans, which are collected in time, and a row that says which step to repeat. Two processes may do
this at once: the row accepts each step's event once, and the second process goes on from there.

What a step has written stays in memory for the steps after it, by its blob's name. A process that goes on
from a row finds no such name in its memory, and reads the blob.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from keyflock_models.arrays import F32
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.aggregation.norm_scale import scales_from_json
from keyflock_server.aggregation.partial_aggregate import CorruptedAggregate, PartialAggregate
from keyflock_server.aggregation.population_personalisation import after_round, personalisation_from_json
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore, next_checkpoint
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.released_weights import ReleasedWeightsWriter
from keyflock_server.protocol.identifiers import ModelVersion
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.checks import publishing_problem
from keyflock_server.releases.evaluation_figures import evaluation_figures, paired_sums
from keyflock_server.releases.model_version import Download, VersionRecord, download_digest
from keyflock_server.releases.step_figures import StepFigures, step_figures
from keyflock_server.rounds.checks_policy import CHECKS_HISTORY
from keyflock_server.rounds.round import (
    Held,
    Merged,
    PartialsDeleted,
    Phase,
    Rebased,
    RoundEvent,
    Stepped,
    Summarised,
)
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.errors import StorageError, Superseded
from keyflock_server.storage.interfaces.rounds import RoundChanges
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import RoundRecord, StagedVersion

if TYPE_CHECKING:
    from keyflock_server.aggregation.server_step import StepResult  # it loads JAX


@dataclass(frozen=True, slots=True)
class _Written:
    """What one call of ``finish`` has written, by blob key."""

    aggregates: dict[str, PartialAggregate] = field(default_factory=dict)
    downloads: dict[str, Download] = field(default_factory=dict)


class RoundFinalizer:
    """Brings a round that accepts no more reports to its end."""

    def __init__(self, deps: Dependencies, models: ModelStore, scales: TaskScales) -> None:
        self._deps = deps
        self._scales = scales
        self._models = models
        self._released_weights = ReleasedWeightsWriter(deps)

    async def finish(self, record: RoundRecord) -> RoundRecord:
        """Do the remaining steps and return the round, closed or held.

        Raises:
            StorageError: a step could not be written; call again, nothing is lost.
        """
        if record.round.phase is Phase.HELD:
            # An operator may have decided meanwhile, through any process.
            record = await self._deps.store.rounds.get(record.round.id) or record
        written = _Written()
        while not (record.round.is_over or record.round.phase is Phase.HELD):
            try:
                record = await self._next_step(record, written)
            except (Superseded, StorageError) as error:
                current = await self._deps.store.rounds.get(record.round.id)
                if current is None:
                    raise StorageError(f"Round {record.round.id} is gone; restore the database.") from None
                # Another process may be ahead, and have deleted what this step was about to read.
                if isinstance(error, StorageError) and current == record:
                    raise
                record = current
        return record

    async def _next_step(self, record: RoundRecord, written: _Written) -> RoundRecord:
        match record.round.phase:
            case Phase.CLOSING:
                return await self._merge(record, written)
            case Phase.MERGED if record.round.spec.kind is TaskKind.PERSONALIZE:
                return await self._summarise(record, written)
            case Phase.MERGED if record.round.spec.kind is TaskKind.EVALUATE:
                return await self._store_evaluation(record, written)
            case Phase.MERGED:
                return await self._step(record, written)
            case Phase.STEPPED:
                return await self._publish(record, written)
            case Phase.PUBLISHED:
                return await self._delete_partials(record)
            case phase:
                raise AssertionError(f"a round that is {phase} is not closing")

    async def delete_partials(self, record: RoundRecord) -> None:
        """Delete the round's intermediate sums, their rows last."""
        rows = await self._deps.store.rounds.partials(record.round.id)
        keys = [row.key for row in rows] + ([record.aggregate_key] if record.aggregate_key else [])
        await self.delete_blobs(keys)
        await self._deps.store.rounds.clear_up(record.round.id)

    async def delete_blobs(self, keys: Iterable[str]) -> None:
        """Delete blobs that no row points to any more; failed deletions are collected in time."""
        for key in keys:
            with contextlib.suppress(StorageError):
                await self._deps.blobs.delete(key)

    async def _aggregate(self, key: str, size: int, written: _Written) -> PartialAggregate:
        if (known := written.aggregates.get(key)) is not None:
            return known
        data = await self._deps.blobs.get(key)
        try:
            return await self._deps.closing.run(PartialAggregate.from_bytes, data, size)
        except CorruptedAggregate as error:
            raise StorageError(
                f"Blob {key} is damaged ({error}); restore it from a backup, or cancel the task."
            ) from None

    async def _merge(self, record: RoundRecord, written: _Written) -> RoundRecord:
        deps = self._deps
        layout = await self._models.report_layout(record.round.spec)
        merged = PartialAggregate(layout.size)
        for row in await deps.store.rounds.partials(record.round.id):
            partial = await self._aggregate(row.key, layout.size, written)
            merged = await deps.closing.run(merged.merged, partial)
        if merged.count != record.round.reports:
            raise StorageError(
                f"Round {record.round.id} counted {record.round.reports} reports, its partials hold "
                f"{merged.count}; restore the database and the blobs of one moment."
            )
        key = f"aggregates/{record.round.id}/{deps.new_id()}"
        await deps.blobs.put(key, await deps.closing.run(merged.to_bytes))
        written.aggregates[key] = merged
        return await self._advance(record, Merged(), {"aggregate_key": key})

    async def _step(self, record: RoundRecord, written: _Written) -> RoundRecord:
        deps, current = self._deps, record.round
        task = await deps.store.tasks.get(current.task)
        if task is None or record.aggregate_key is None:
            raise StorageError(
                f"Round {current.id} has lost its task or its aggregate; restore the database."
            )
        state = await deps.blobs.get(task.optimizer_state_key) if task.optimizer_state_key else None
        base = (await self._models.population(current.population)).latest_version
        checkpoint = await self._models.checkpoint(current.population, base)
        aggregate = await self._aggregate(record.aggregate_key, checkpoint.weights.size, written)
        mean_delta = await deps.closing.run(aggregate.mean)
        stepped = await deps.closing.run(_step, checkpoint.weights, state, mean_delta, current.spec)
        figures = await self._measure_step(record, base, checkpoint, stepped.weights, mean_delta)
        if figures.non_finite_weights:
            # Such a version is of no use: none of it is written, and the checks hold the round.
            return await self._advance(
                record, Stepped(figures.to_json()), {"staged": StagedVersion(stepped_from=base)}
            )
        lineage = {"parent": str(base), "round": current.id, "reports": str(current.reports)}
        version = ModelVersion(base + 1)
        after = next_checkpoint(checkpoint, stepped.weights, lineage)
        stored = await self._models.write_version(current.population, version, after)
        written.downloads[stored.download_key] = stored.download
        state_key = f"optimizers/{current.task}/{deps.new_id()}"
        await deps.blobs.put(state_key, stepped.state)
        layout = await self._models.layout(current.population)
        average = await self._released_weights.write(record, checkpoint.weights, stepped.weights, layout)
        if average is not None:
            written.downloads[average.released_key] = average.download
        staged = StagedVersion(
            stepped_from=base,
            checkpoint_key=stored.checkpoint_key,
            download_key=stored.download_key,
            state_key=state_key,
            average_key=average and average.average_key,
            released_key=average and average.released_key,
        )
        return await self._advance(record, Stepped(figures.to_json()), {"staged": staged})

    async def _measure_step(
        self, record: RoundRecord, base: ModelVersion, before: Checkpoint, weights: F32, mean_delta: F32
    ) -> StepFigures:
        population = await self._models.population(record.round.population)
        version = await self._models.any_version(record.round.population, base)

        def measure() -> StepFigures:
            return step_figures(
                before,
                weights,
                mean_delta,
                loss_before=version.anchor_loss,
                loss_chosen=population.anchor_loss_chosen,
            )

        return await self._deps.closing.run(measure)

    async def _past_figures(self, record: RoundRecord) -> list[StepFigures]:
        """Return the figures of the task's last rounds whose versions were not withdrawn."""
        current, rounds = record.round, self._deps.store.rounds
        withdrawn = await self._deps.store.populations.withdrawn(current.population)
        past = [one.round for one in await rounds.list_by_task(current.task, last=4 * CHECKS_HISTORY)]
        made = [
            one.figures_json
            for one in past
            if one.is_committed and one.figures_json and one.result_version not in withdrawn
        ]
        return [StepFigures.from_json(stored) for stored in made[-CHECKS_HISTORY:]]

    async def _evidence(self, record: RoundRecord, written: _Written) -> PartialAggregate:
        """Return the sum of a round that trains nothing."""
        if record.aggregate_key is None:
            raise StorageError(f"Round {record.round.id} has lost its aggregate; restore the database.")
        layout = await self._models.report_layout(record.round.spec)
        return await self._aggregate(record.aggregate_key, layout.size, written)

    async def _store_evaluation(self, record: RoundRecord, written: _Written) -> RoundRecord:
        deps, current = self._deps, record.round
        aggregate = await self._evidence(record, written)
        comparison = current.spec.comparison
        sums = paired_sums(aggregate.sum, aggregate.count, comparison.ordered_metrics)
        candidate, baseline = comparison.versions
        evaluation = EvaluationRecord(
            round_id=current.id,
            population=current.population,
            task=current.task,
            candidate=candidate,
            baseline=baseline,
            phones=aggregate.count,
            sums_json=sums.to_json(),
            at=deps.clock(),
        )
        figures = json.dumps(evaluation_figures(aggregate.sum, sums))
        return await deps.store.rounds.publish_evaluation(
            current.id, Summarised(figures), evaluation, deps.clock()
        )

    async def _summarise(self, record: RoundRecord, written: _Written) -> RoundRecord:
        deps, current = self._deps, record.round
        aggregate = await self._evidence(record, written)
        settings = current.spec.personalising
        before = (await self._models.population(current.population)).personalisation_json
        after, figures = after_round(
            None if before is None else personalisation_from_json(before),
            aggregate.mean(),
            aggregate.count,
            minimum=current.spec.round.minimum_reports,
            tried=settings.head_of(current.sequence),
            candidates=settings.heads,
            round_id=current.id,
        )
        moved = await deps.store.rounds.publish_personalisation(
            current.id,
            Summarised(json.dumps(figures)),
            before,
            None if after is None else after.to_json(),
            deps.clock(),
        )
        deps.observer.priors_published(current.population, aggregate.count)
        return moved

    async def _publish(self, record: RoundRecord, written: _Written) -> RoundRecord:
        deps, current, staged = self._deps, record.round, record.staged
        newest = (await self._models.population(current.population)).latest_version
        # A step of an earlier release, which measured nothing, is repeated too.
        if staged is None or staged.stepped_from != newest or not current.figures_json:
            return await self._rebase(record)
        figures = StepFigures.from_json(current.figures_json)
        if not current.is_accepted:
            is_clipped = current.spec.aggregation.clip_norm_ratio > 0.0
            problem = publishing_problem(
                figures,
                await self._past_figures(record),
                current.spec.checks,
                # Without a scale, nothing is clipped.
                is_clipped=is_clipped and bool(scales_from_json(record.norm_scales_json)),
            )
            if problem:
                return await self._hold(record, problem)
        download_key, checkpoint_key, state_key = staged.download_key, staged.checkpoint_key, staged.state_key
        if download_key is None or checkpoint_key is None or state_key is None:
            raise StorageError(f"Round {current.id} has lost what its step wrote; restore the database.")
        download = await self._download(download_key, written)
        released = staged.released_key and await self._download(staged.released_key, written)
        version = VersionRecord(
            population=current.population,
            version=ModelVersion(newest + 1),
            parent=newest,
            round_id=current.id,
            created_at=deps.clock(),
            download_digest=download.digest,
            download_bytes=len(download.body),
            download_key=download_key,
            checkpoint_key=checkpoint_key,
            released_digest=released.digest if released else None,
            released_bytes=len(released.body) if released else None,
            released_key=staged.released_key,
            anchor_loss=figures.anchor_loss,
            note=current.detail if current.is_accepted else "",
        )
        averages = await self._released_weights.superseded(current.population, staged)
        task = await deps.store.tasks.get(current.task)
        superseded = task.optimizer_state_key if task else None
        scales = await self._scales_after(record, written)
        after = await deps.store.rounds.publish(current.id, version, state_key, deps.clock(), scales)
        deps.observer.version_published(current.population, version.version)
        await self.delete_blobs((*averages, *((superseded,) if superseded else ())))
        return after

    async def _download(self, key: str, written: _Written) -> Download:
        if (known := written.downloads.get(key)) is not None:
            return known
        body = await self._deps.blobs.get(key)
        return Download(body, download_digest(body))

    async def _scales_after(self, record: RoundRecord, written: _Written) -> bytes | None:
        """Return the task's norm scales after this round's reports; None if their sum is lost."""
        layout = await self._models.report_layout(record.round.spec)
        try:
            aggregate = await self._aggregate(record.aggregate_key or "", layout.size, written)
        except StorageError:
            return None  # the version exists, and the scales may stay as they are
        return await self._scales.after_round(record, aggregate.norms)

    async def _hold(self, record: RoundRecord, problem: str) -> RoundRecord:
        after = await self._advance(record, Held(problem), {})
        self._deps.observer.round_held(after.round.task, after.round.sequence, problem)
        return after

    async def _rebase(self, record: RoundRecord) -> RoundRecord:
        """Go back to MERGED to step again, because another version became the newest since the step."""
        after = await self._advance(record, Rebased(), {"staged": None})
        await self.delete_blobs(() if record.staged is None else record.staged.blob_keys)
        return after

    async def _delete_partials(self, record: RoundRecord) -> RoundRecord:
        await self.delete_partials(record)
        stepped = record.staged and StagedVersion(stepped_from=record.staged.stepped_from)
        return await self._advance(record, PartialsDeleted(), {"aggregate_key": None, "staged": stepped})

    async def _advance(self, record: RoundRecord, event: RoundEvent, changes: RoundChanges) -> RoundRecord:
        return await self._deps.store.rounds.advance(record.round.id, event, self._deps.clock(), changes)


def _step(weights: F32, state: bytes | None, mean_delta: F32, spec: TaskSpec) -> "StepResult":
    from keyflock_server.aggregation.server_step import server_step

    optimizer = spec.optimizer
    return server_step(
        weights, state, mean_delta, optimizer.name, spec.optimizer_parameters, optimizer.schedule
    )
