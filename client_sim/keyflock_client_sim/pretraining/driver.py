"""The driver runs pre-training from the first step to the checkpoint: the clock, the worker, the state file.

Killed at any moment, the same spec goes on from the last saved state; the time already spent counts. One
worker with all cores, because the other way was measured: two workers that are averaged every 50 steps end
0.85 points of recall@1 lower after the same number of epochs.
"""

import asyncio
import math
from collections.abc import Callable
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Final

import numpy as np

from keyflock_client_sim.measuring.evaluation import evaluate, publish_checkpoint
from keyflock_client_sim.pretraining.progress import PretrainingProgress, SavedState, load_state, save_state
from keyflock_client_sim.pretraining.public_text import PublicText
from keyflock_client_sim.pretraining.schedule import PretrainingSchedule
from keyflock_client_sim.pretraining.spec import PretrainingSpec
from keyflock_client_sim.pretraining.step_job import PretrainSteps
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_models.training.minibatches import Minibatches
from keyflock_models.training.pretraining import PretrainingState, begin_pretraining

#: A killed run loses about this much.
SAVE_EVERY_S: Final = 10.0
#: Between measurements of recall, which take some tenths of a second each.
PROBE_EVERY_S: Final = 20.0


async def pretrain(
    spec: PretrainingSpec,
    pool: WorkerPool,
    *,
    clock: Callable[[], float],
    state_path: Path | None = None,
    on_progress: Callable[[PretrainingProgress], None] | None = None,
) -> Checkpoint:
    """Return the checkpoint of a spec.

    Args:
        spec: What is to be trained.
        pool: Trains and measures, a job at a time: a pool of one worker with all cores is best.
        clock: Seconds that only go forward, such as ``time.monotonic``.
        state_path: The file that stores the state for a run that is killed; None stores none. It is still
            there at the end: the caller deletes it after it has stored the checkpoint.
        on_progress: Called after each job of some seconds.

    Guarantees:
        With an end in epochs and none in seconds: the same bits for the same spec on the same machine and
        number of threads, interrupted or not.

    Raises:
        CorpusError: The text has no word.
        StateError: The file at ``state_path`` belongs to another spec.
    """
    began_at = clock()
    saved = load_state(state_path, spec_key=spec.key) if state_path is not None else None
    run = await asyncio.to_thread(_PretrainingRun, spec, pool, clock, began_at, saved)
    while run.ratio < 1.0:
        await run.train_steps()
        recall = await run.recall_at_1() if run.is_probe_due() else None
        if state_path is not None and run.is_save_due():
            await asyncio.to_thread(save_state, run.saved_state(), state_path)
        if on_progress is not None:
            on_progress(run.progress(recall))
    return run.checkpoint()


class _PretrainingRun:
    """A pre-training under way."""

    def __init__(
        self,
        spec: PretrainingSpec,
        pool: WorkerPool,
        clock: Callable[[], float],
        began_at: float,
        saved: SavedState | None,
    ) -> None:
        self._spec, self._pool, self._clock = spec, pool, clock
        # The time that an earlier, killed run spent counts: the limit is for the whole.
        self._began_at = began_at - (saved.elapsed_s if saved is not None else 0.0)
        self._vocabulary: Vocabulary = public_vocabulary(spec.language, spec.config.vocabulary_size)
        self._text = PublicText.of(spec.users, self._vocabulary, seed=spec.seed)
        batch_size = min(spec.plan.batch_size, len(self._text.rows))
        self._feed = Minibatches(self._text.rows, batch_size=batch_size, seed=spec.seed)
        self._state = (
            PretrainingState.from_bytes(saved.state)
            if saved is not None
            else begin_pretraining(spec.config, self._vocabulary, seed=spec.seed)
        )
        self._schedule = PretrainingSchedule(spec.seconds, self._steps_in_all())
        self._steps_per_s: float | None = None
        self._loss = math.nan
        self._saved_at = self._probed_at = began_at

    @property
    def ratio(self) -> float:
        """Return the share of the training that is done."""
        return self._schedule.ratio(self._state.step, self._elapsed_s())

    async def train_steps(self) -> None:
        """Train for some steps."""
        begin_s, step = self._elapsed_s(), self._state.step
        steps = self._schedule.next_steps(step, begin_s, self._steps_per_s)
        expected_s = begin_s if self._steps_per_s is None else begin_s + steps / self._steps_per_s
        result = await self._pool.run(
            PretrainSteps(
                state=self._state.to_bytes(),
                batches=np.stack([self._feed.batch(step + ahead) for ahead in range(steps)]),
                plan=self._spec.plan,
                begin_ratio=self._schedule.ratio(step, begin_s),
                end_ratio=self._schedule.ratio(step + steps, expected_s),
                seed=self._spec.seed,
            )
        )
        self._state = PretrainingState.from_bytes(result.state)
        self._loss = result.loss
        self._steps_per_s = steps / max(self._elapsed_s() - begin_s, 1e-6)

    async def recall_at_1(self) -> float | None:
        """Return recall@1 on the held-out users; None where there are none."""
        self._probed_at = self._clock()
        if not self._text.held_out:
            return None
        model = publish_checkpoint(self._pool, self._as_checkpoint({}))
        evaluation = await evaluate(self._pool, model, self._text.held_out)
        return evaluation.recall_at_1.micro

    def is_probe_due(self) -> bool:
        """Return whether recall is to be measured now: regularly, and at the end."""
        return self.ratio >= 1.0 or self._clock() - self._probed_at >= PROBE_EVERY_S

    def is_save_due(self) -> bool:
        """Return whether the state is to be saved now."""
        return self._clock() - self._saved_at >= SAVE_EVERY_S

    def saved_state(self) -> SavedState:
        """Return the state that a later run goes on from."""
        self._saved_at = self._clock()
        return SavedState(order=self._spec.key, elapsed_s=self._elapsed_s(), state=self._state.to_bytes())

    def progress(self, recall_at_1: float | None) -> PretrainingProgress:
        """Return the progress of the training."""
        return PretrainingProgress(
            ratio=self.ratio,
            step=self._state.step,
            epochs=self._state.step / self._feed.steps_per_epoch,
            elapsed_s=self._elapsed_s(),
            loss=self._loss,
            recall_at_1=recall_at_1,
        )

    def checkpoint(self) -> Checkpoint:
        """Return the model as it is, with its lineage."""
        progress = self.progress(None)
        return self._as_checkpoint(
            {
                "made_by": f"keyflock {distribution_version('keyflock')}",
                "pretrained_on": self._spec.corpus,
                "pretraining_order": self._spec.key,
                "pretraining_epochs": f"{progress.epochs:.2f}",
                "pretraining_seconds": f"{progress.elapsed_s:.1f}",
            }
        )

    def _as_checkpoint(self, lineage: dict[str, str]) -> Checkpoint:
        return Checkpoint(
            self._spec.config, self._vocabulary, self._state.weights, lineage, self._text.anchor
        )

    def _steps_in_all(self) -> int | None:
        if self._spec.epochs is None:
            return None
        return max(1, round(self._spec.epochs * self._feed.steps_per_epoch))

    def _elapsed_s(self) -> float:
        return self._clock() - self._began_at
