"""This worker job scores two versions on one phone's held-out messages: it returns bounded numbers only."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_compression import encode, parse_spec
from keyflock_models.evaluation.keystrokes import keystroke_savings
from keyflock_models.evaluation.measures import Evaluation, evaluate
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.evaluation.paired_scores import PairedScore, PairedScores, encode_scores, paired_layout
from keyflock_models.evaluation.per_user import PerUser
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import encode_messages, letters_in_messages
from keyflock_models.text.vocabulary import Vocabulary

#: The user's name in tables of one user.
_USER = "user"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ScoreVersions:
    """A job that scores a candidate and a baseline on the same messages."""

    #: The models; publish their bytes first.
    candidate: ModelDigest
    baseline: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary
    #: Messages that the phone never trained on.
    messages: tuple[str, ...]
    metrics: tuple[str, ...]
    words_needed: int
    #: The codec in its wire form, as the assignment carries it.
    codec: Mapping[str, object]
    seed: int

    def run(self, models: ModelFolder) -> bytes | None:
        """Return the scores as a compression container; None if there are too few words.

        Raises:
            UnknownModelError: a model was not published.
            CodecError: a model's bytes or the codec's wire form are not what this layout and build expect.
            ValueError: a metric is not known.
        """
        layout = paired_layout(self.metrics)
        rows = {_USER: encode_messages(self.vocabulary, self.messages, SEQUENCE_LENGTH)}
        weights_layout = ParamLayout.for_config(self.config)
        scorers = [
            NeuralScorer(self.config, models.weights(digest, weights_layout), self.vocabulary)
            for digest in (self.candidate, self.baseline)
        ]
        evaluations = [evaluate(scorer, rows) for scorer in scorers]
        words = int(evaluations[0].recall_at_1.denominator[0])
        # A user whose every word is unknown has no loss.
        if words < self.words_needed or not evaluations[0].nll.denominator[0]:
            return None
        means = [self._means(scorer, found) for scorer, found in zip(scorers, evaluations, strict=True)]
        measured = PairedScores(
            words=words,
            oov_rate=_mean(evaluations[0].oov_rate),
            scores={metric: PairedScore(*(of[metric] for of in means)) for metric in self.metrics},
        )
        return encode(encode_scores(measured, self.metrics), layout, parse_spec(self.codec), seed=self.seed)

    def _means(self, scorer: NeuralScorer, found: Evaluation) -> dict[str, float]:
        means = {metric: _mean(getattr(found, metric)) for metric in self.metrics if metric != "ksr"}
        if "ksr" in self.metrics:
            rows = {_USER: encode_messages(self.vocabulary, self.messages, SEQUENCE_LENGTH)}
            letters = {_USER: letters_in_messages(self.messages, SEQUENCE_LENGTH)}
            means["ksr"] = _mean(keystroke_savings(scorer, self.vocabulary, rows, letters).all)
        return means


def _mean(measure: PerUser) -> float:
    return float(measure.numerator[0] / measure.denominator[0]) if measure.denominator[0] else 0.0
