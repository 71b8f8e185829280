"""A trunk reader is the trunk on a user's phone: it reads messages, fits heads, and can be fine-tuned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.personal.head import PersonalHead, feature_space
from keyflock_models.personal.head_fitting import HeadSettings, fit_head
from keyflock_models.personal.typed_secrets import words_without_secrets
from keyflock_models.text.sequences import encode_messages
from keyflock_models.text.special_tokens import BOS, EOS, PAD
from keyflock_models.training.local_training import LocalTrainingConfig, local_train

#: The maximum words, by white space, of a piece that is learned and judged as one message.
MAX_PIECE_WORDS: Final = 40
#: A block of the trunk's probabilities has at most so many rows.
_WORDS_AT_ONCE: Final = 512


@dataclass(frozen=True, slots=True, eq=False)
class TrunkReading:
    """The trunk's output for one message."""

    message: str
    #: The probabilities at each word, shape (T, V).
    probabilities: F32
    #: The states before each word, shape (T, E).
    states: F32


class TrunkReader:
    """Reads messages with one trunk.

    Args:
        scorer: The network.
        seed: The seed of fitting.
    """

    def __init__(self, scorer: NeuralScorer, *, seed: int = 0) -> None:
        self._scorer = scorer
        self._seed = seed
        self._embedding, self._output_bias = scorer.output_product
        #: The trunk's feature space.
        self.space = feature_space(scorer.weights)

    def read(self, messages: Sequence[str]) -> Iterator[TrunkReading]:
        """Yield a reading of each message that has a word, in order; the network runs on many at a time."""
        chunk: list[tuple[str, list[int]]] = []
        for message in messages:
            vocabulary = self._scorer.vocabulary
            ids = vocabulary.encode(words_without_secrets(message, vocabulary))
            if not ids:
                continue
            if chunk and sum(len(one) for _, one in chunk) + len(ids) > _WORDS_AT_ONCE:
                yield from self._readings(chunk)
                chunk = []
            chunk.append((message, ids))
        if chunk:
            yield from self._readings(chunk)

    def fit(self, states: F32, targets: I32, settings: HeadSettings) -> PersonalHead | None:
        """Fit a head on this trunk; see `fit_head`."""
        return fit_head(
            states,
            targets,
            self._embedding,
            self._output_bias,
            settings,
            space=self.space,
            seed=self._seed,
        )

    def with_head(self, head: PersonalHead, states: F32) -> F32:
        """Return the trunk's probabilities with a head on it, shape (T, V).

        Raises:
            WrongSpaceError: the head belongs to another trunk.
        """
        return head.require_space(self.space).probabilities(states, self._embedding, self._output_bias)

    def fine_tuned(self, messages: Sequence[str], *, learning_rate: float, epochs: int) -> "TrunkReader":
        """Fine-tune all of the trunk's parameters on one user's messages, as a comparison for heads."""
        scorer = self._scorer
        rows = encode_messages(scorer.vocabulary, list(messages))
        training = LocalTrainingConfig(
            learning_rate=learning_rate, epochs=epochs, max_examples=max(1, len(rows)), gradient_clip_norm=1.0
        )
        trained = local_train(scorer.config, scorer.weights, rows, training, seed=self._seed)
        weights = np.asarray(scorer.weights - trained.delta, np.float32)
        return TrunkReader(NeuralScorer(scorer.config, weights, scorer.vocabulary), seed=self._seed)

    def _readings(self, chunk: list[tuple[str, list[int]]]) -> Iterator[TrunkReading]:
        longest = max(len(ids) for _, ids in chunk)
        rows = np.full((len(chunk), longest + 2), PAD, np.int32)
        for row, (_, ids) in zip(rows, chunk, strict=True):
            row[: len(ids) + 2] = [BOS, *ids, EOS]
        states = self._scorer.states(rows)
        before_words = np.concatenate([states[at, : len(ids)] for at, (_, ids) in enumerate(chunk)])
        logits = before_words @ self._embedding.T + self._output_bias
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        begin = 0
        for message, ids in chunk:
            at = slice(begin, begin + len(ids))
            yield TrunkReading(message, logits[at], before_words[at])
            begin += len(ids)


def split_message(message: str) -> Iterator[str]:
    """Yield the message, or its parts if it is longer than is read at once."""
    tokens = message.split()
    for start in range(0, len(tokens), MAX_PIECE_WORDS):
        yield " ".join(tokens[start : start + MAX_PIECE_WORDS])
