"""This trainer adds `evaluate` to another trainer, and dispatches the work between the two."""

from collections.abc import Mapping, Sequence
from typing import Final

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.trainer import Trainer, TrainingError
from keyflock_client_sim.drivers.worker_models import PublishedModels, worker_result
from keyflock_client_sim.evaluating.score_job import ScoreVersions
from keyflock_client_sim.personalising.personal_trainer import JobRunner
from keyflock_models.evaluation.paired_scores import paired_layout
from keyflock_models.network.config import ModelConfig
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.protocol.messages import Capabilities, FailureCause, TaskKind

#: The capabilities of phones that do every kind of task, and hold some of their text out of training.
ALL_CAPABILITIES: Final = Capabilities(tasks=tuple(kind.value for kind in TaskKind))


class EvaluatingTrainer:
    """Scores versions on phones' held-out messages; every other work goes to another trainer.

    Args:
        other: The trainer for work other than ``evaluate``. It must not train on these messages.
        workers: Run the jobs.
        config: The size of the model.
        vocabulary: The vocabulary of the model.
        held_out: Each phone's messages that it never trains on.
    """

    def __init__(
        self,
        other: Trainer,
        workers: JobRunner,
        config: ModelConfig,
        vocabulary: Vocabulary,
        held_out: Mapping[str, Sequence[str]],
    ) -> None:
        self._other = other
        self._workers = workers
        self._config = config
        self._vocabulary = vocabulary
        self._held_out = held_out
        self._published = PublishedModels(workers.publish)

    def store(self, digest: bytes, body: bytes) -> None:
        """Store a model; see ``Trainer``."""
        self._other.store(digest, body)
        self._published.store(digest, body)

    async def train(self, phone: str, work: Train) -> Trained:
        """Train for a phone; see ``Trainer``."""
        plan = work.evaluating
        if plan is None:
            return await self._other.train(phone, work)
        try:
            is_known = work.layout == paired_layout(plan.metrics).digest
        except ValueError:
            is_known = False
        if not is_known:
            raise TrainingError(FailureCause.TRAINING_FAILED, "a metric or its layout is not known here")
        job = ScoreVersions(
            candidate=self._published.digest_of(work.model_digest),
            baseline=self._published.digest_of(plan.baseline_digest),
            config=self._config,
            vocabulary=self._vocabulary,
            messages=tuple(self._held_out[phone]),
            metrics=plan.metrics,
            words_needed=plan.words_needed,
            codec=work.codec,
            seed=work.seed % 2**32,
        )
        scores = await worker_result(self._workers.run(job))
        if scores is None:
            raise TrainingError(FailureCause.NO_EXAMPLES)
        return Trained(delta=scores, examples=1)
