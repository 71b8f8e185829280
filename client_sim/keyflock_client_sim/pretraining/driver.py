"""Pre-training from the first step to the checkpoint: the clock, the worker, the state file.

Killed at any moment, the same order goes on from the last saved state; the time already spent counts. One
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

from keyflock_client_sim.measuring.evaluation import evaluate, published
from keyflock_client_sim.pretraining.order import PretrainingOrder
from keyflock_client_sim.pretraining.progress import Progress, SavedState, load_state, save_state
from keyflock_client_sim.pretraining.public_text import PublicText
from keyflock_client_sim.pretraining.schedule import Schedule
from keyflock_client_sim.pretraining.stretch import Stretch
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.minibatches import Minibatches
from keyflock_models.pretraining import PretrainingState, begin_pretraining
from keyflock_models.public_vocabulary import public_vocabulary
from keyflock_models.vocabulary import Vocabulary

#: A killed run loses about this much.
SAVE_EVERY_S: Final = 10.0
#: Between measurements of recall, which take some tenths of a second each.
PROBE_EVERY_S: Final = 20.0


async def pretrain(
    order: PretrainingOrder,
    pool: WorkerPool,
    *,
    clock: Callable[[], float],
    state_path: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """The checkpoint that was ordered.

    Args:
        order: What is to be trained.
        pool: Trains and measures, a job at a time: one worker that has all cores is what it wants.
        clock: Seconds that only go forward, such as ``time.monotonic``.
        state_path: Where the state is kept for a run that is killed; None keeps none. The file is still there
            at the end: whoever stores the checkpoint deletes it afterwards.
        on_progress: Told after each stretch of some seconds.

    Guarantees:
        With an end in epochs and none in seconds: the same bits for the same order on the same machine and
        number of threads, interrupted or not.

    Raises:
        CorpusError: The text has no word.
        StateError: The file at ``state_path`` belongs to another order.
    """
    began_at = clock()
    saved = load_state(state_path, order=order.key) if state_path is not None else None
    run = await asyncio.to_thread(_Run, order, pool, clock, began_at, saved)
    while run.ratio < 1.0:
        await run.take_a_stretch()
        recall = await run.recall_at_1() if run.is_due_for_a_probe() else None
        if state_path is not None and run.is_due_for_saving():
            await asyncio.to_thread(save_state, run.saved(), state_path)
        if on_progress is not None:
            on_progress(run.progress(recall))
    return run.checkpoint()


class _Run:
    """A pre-training under way."""

    def __init__(
        self,
        order: PretrainingOrder,
        pool: WorkerPool,
        clock: Callable[[], float],
        began_at: float,
        saved: SavedState | None,
    ) -> None:
        self._order, self._pool, self._clock = order, pool, clock
        # The time that an earlier, killed run spent counts: the end was ordered for the whole.
        self._began_at = began_at - (saved.elapsed_s if saved is not None else 0.0)
        self._vocabulary: Vocabulary = public_vocabulary(order.language, order.config.vocabulary_size)
        self._text = PublicText.of(order.users, self._vocabulary, seed=order.seed)
        batch_size = min(order.plan.batch_size, len(self._text.rows))
        self._feed = Minibatches(self._text.rows, batch_size=batch_size, seed=order.seed)
        self._state = (
            PretrainingState.from_bytes(saved.state)
            if saved is not None
            else begin_pretraining(order.config, self._vocabulary, seed=order.seed)
        )
        self._schedule = Schedule(order.seconds, self._steps_in_all())
        self._steps_per_s: float | None = None
        self._loss = math.nan
        self._saved_at = self._probed_at = began_at

    @property
    def ratio(self) -> float:
        """Share of the training that is behind."""
        return self._schedule.ratio(self._state.step, self._elapsed_s())

    async def take_a_stretch(self) -> None:
        """Trains for a while."""
        begin_s, step = self._elapsed_s(), self._state.step
        steps = self._schedule.next_stretch(step, begin_s, self._steps_per_s)
        expected_s = begin_s if self._steps_per_s is None else begin_s + steps / self._steps_per_s
        stretched = await self._pool.run(
            Stretch(
                state=self._state.to_bytes(),
                batches=np.stack([self._feed.at(step + ahead) for ahead in range(steps)]),
                plan=self._order.plan,
                begin_ratio=self._schedule.ratio(step, begin_s),
                end_ratio=self._schedule.ratio(step + steps, expected_s),
                seed=self._order.seed,
            )
        )
        self._state = PretrainingState.from_bytes(stretched.state)
        self._loss = stretched.loss
        self._steps_per_s = steps / max(self._elapsed_s() - begin_s, 1e-6)

    async def recall_at_1(self) -> float | None:
        """On the users who are kept back; None where there are none."""
        self._probed_at = self._clock()
        if not self._text.kept_back:
            return None
        model = published(self._pool, self._as_checkpoint({}))
        evaluation = await evaluate(self._pool, model, self._text.kept_back)
        return evaluation.recall_at_1.micro

    def is_due_for_a_probe(self) -> bool:
        """Whether recall was not measured for a while, or for the last time."""
        return self.ratio >= 1.0 or self._clock() - self._probed_at >= PROBE_EVERY_S

    def is_due_for_saving(self) -> bool:
        """Whether too much would be lost."""
        return self._clock() - self._saved_at >= SAVE_EVERY_S

    def saved(self) -> SavedState:
        """What a later run goes on from."""
        self._saved_at = self._clock()
        return SavedState(order=self._order.key, elapsed_s=self._elapsed_s(), state=self._state.to_bytes())

    def progress(self, recall_at_1: float | None) -> Progress:
        """Where the training is."""
        return Progress(
            ratio=self.ratio,
            step=self._state.step,
            epochs=self._state.step / self._feed.steps_per_epoch,
            elapsed_s=self._elapsed_s(),
            loss=self._loss,
            recall_at_1=recall_at_1,
        )

    def checkpoint(self) -> Checkpoint:
        """The model as it is, with where it comes from."""
        progress = self.progress(None)
        return self._as_checkpoint(
            {
                "made_by": f"keyflock {distribution_version('keyflock')}",
                "pretrained_on": self._order.corpus,
                "pretraining_order": self._order.key,
                "pretraining_epochs": f"{progress.epochs:.2f}",
                "pretraining_seconds": f"{progress.elapsed_s:.1f}",
            }
        )

    def _as_checkpoint(self, lineage: dict[str, str]) -> Checkpoint:
        return Checkpoint(
            self._order.config, self._vocabulary, self._state.weights, lineage, self._text.anchor
        )

    def _steps_in_all(self) -> int | None:
        if self._order.epochs is None:
            return None
        return max(1, round(self._order.epochs * self._feed.steps_per_epoch))

    def _elapsed_s(self) -> float:
        return self._clock() - self._began_at
