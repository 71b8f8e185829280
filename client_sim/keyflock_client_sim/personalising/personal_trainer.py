"""This trainer adds `personalize` to another trainer, and dispatches the work between the two."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.trainer import Trainer, TrainingError
from keyflock_client_sim.drivers.worker_models import PublishedModels, worker_result
from keyflock_client_sim.personalising.evidence_job import GatherEvidence
from keyflock_client_sim.training.job import Job
from keyflock_client_sim.training.model_folder import ModelDigest
from keyflock_models.network.config import ModelConfig
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.protocol.messages import FailureCause

AnswerT = TypeVar("AnswerT")


class JobRunner(Protocol):
    """Runs jobs: a ``WorkerPool``, or this process."""

    def publish(self, body: bytes) -> ModelDigest:
        """Publish a model's bytes to all workers."""
        ...

    async def run(self, job: Job[AnswerT]) -> AnswerT:
        """Run the job and return its result."""
        ...


class PersonalTrainer:
    """Personalises on phones' messages; every other work goes to another trainer.

    Args:
        other: The trainer for work other than ``personalize``.
        workers: Run the jobs.
        config: The size of the model.
        vocabulary: The vocabulary of the model.
        messages: Each phone's messages, in the order of typing.
        seconds_of: The duration on a phone; None: the duration here, which differs between runs.
    """

    def __init__(
        self,
        other: Trainer,
        workers: JobRunner,
        config: ModelConfig,
        vocabulary: Vocabulary,
        messages: Mapping[str, Sequence[str]],
        *,
        seconds_of: Callable[[str], float] | None = None,
    ) -> None:
        self._other = other
        self._workers = workers
        self._config = config
        self._vocabulary = vocabulary
        self._messages = messages
        self._seconds_of = seconds_of
        self._published = PublishedModels(workers.publish)

    def store(self, digest: bytes, body: bytes) -> None:
        """Store a model; see ``Trainer``."""
        self._other.store(digest, body)
        self._published.store(digest, body)

    async def train(self, phone: str, work: Train) -> Trained:
        """Train for a phone; see ``Trainer``."""
        if work.personalising is None:
            return await self._other.train(phone, work)
        if work.layout != EVIDENCE_LAYOUT.digest:
            raise TrainingError(FailureCause.TRAINING_FAILED, "the evidence has another layout than is known")
        job = GatherEvidence(
            model=self._published.digest_of(work.model_digest),
            config=self._config,
            vocabulary=self._vocabulary,
            messages=tuple(self._messages[phone]),
            plan=work.personalising,
            codec=work.codec,
            seed=work.seed % 2**32,
            seconds=None if self._seconds_of is None else self._seconds_of(phone),
        )
        evidence = await worker_result(self._workers.run(job))
        if evidence is None:
            raise TrainingError(FailureCause.NO_EXAMPLES)
        return Trained(delta=evidence, examples=1)
