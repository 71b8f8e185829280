"""This module evaluates versions on phones that took no part, on the very bytes that phones download."""

from dataclasses import dataclass, field

from keyflock_client_sim.demo.result import Recall
from keyflock_client_sim.measuring.evaluation import evaluate
from keyflock_client_sim.measuring.scorers import PublishedModel, ScorerSource, Trigram, Unigram
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.model_downloads import ModelDownloads
from keyflock_client_sim.training_setup.text import DemoText
from keyflock_models.evaluation.measures import Evaluation
from keyflock_models.network.checkpoint import Checkpoint


@dataclass(slots=True)
class VersionEvaluator:
    """Evaluates versions on held-out users."""

    pool: WorkerPool
    downloads: ModelDownloads
    #: A checkpoint of the same size and vocabulary.
    checkpoint: Checkpoint
    text: DemoText
    _published: dict[int, PublishedModel] = field(default_factory=dict)

    async def evaluate_on_sample(self, version: int) -> Recall:
        """Evaluate a version on the sample of the held-out users."""
        return recall_of(await evaluate(self.pool, await self.publish(version), self.text.sample()))

    async def evaluate_in_full(self, version: int) -> Evaluation:
        """Evaluate a version on all held-out users."""
        return await self._in_full(await self.publish(version))

    async def unigram(self) -> Evaluation:
        """Evaluate the unigram baseline, fitted on all text that is not held out."""
        return await self._in_full(Unigram(self.checkpoint.vocabulary, self.text.held_out.elsewhere))

    async def trigram(self) -> Evaluation:
        """Evaluate the trigram baseline, fitted on all text that is not held out."""
        return await self._in_full(Trigram(self.checkpoint.vocabulary, self.text.held_out.elsewhere))

    async def publish(self, version: int) -> PublishedModel:
        """Return a version as published to the workers."""
        if version not in self._published:
            digest = self.pool.publish(await self.downloads.fetch(version))
            self._published[version] = PublishedModel(
                digest, self.checkpoint.config, self.checkpoint.vocabulary
            )
        return self._published[version]

    async def _in_full(self, source: ScorerSource) -> Evaluation:
        return await evaluate(self.pool, source, self.text.held_out.sequences)


def recall_of(evaluation: Evaluation) -> Recall:
    """Return recall over all words of all users."""
    return Recall(evaluation.recall_at_1.micro, evaluation.recall_at_3.micro)
