"""The reference delta: the server's own delta under a task's training plan, the unit of phones' delta norms.

The first phones to report must not decide which norm is long. So the server trains the population's model
once by the task's plan, on the population's anchor text, or where there is none on words that are drawn by
their public frequencies.
"""

from typing import Final

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.text.special_tokens import BOS, EOS, SPECIAL_TOKENS
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_models.training.local_training import LocalTrainingConfig, local_train
from keyflock_server.protocol.plans import TrainingPlan

#: Number of training sequences, as of a typical phone (docs/decisions/0040).
_EXAMPLES: Final = 64
#: Number of words of a drawn message; half of all text messages are shorter.
_DRAWN_WORDS: Final = 7
_SEED: Final = 0


def reference_delta(checkpoint: Checkpoint, plan: TrainingPlan) -> F32:
    """Return the delta of a phone with the anchor text, or drawn words, shape (P,), float32. Takes seconds.

    Guarantees:
        The result depends only on the arguments: all replicas get the same, up to the processors' rounding.
        It is finite.
    Edge cases:
        the plan's training diverges on that text -> the delta of its first step alone; that diverges too ->
        zeros
    """
    text = getattr(checkpoint, "anchor", None)
    if text is None or not len(text):
        text = drawn_text(checkpoint.vocabulary, _EXAMPLES, plan.sequence_length)
    for examples, epochs in ((_EXAMPLES, plan.epochs), (plan.batch_size, 1)):
        training = LocalTrainingConfig(
            learning_rate=plan.learning_rate,
            epochs=epochs,
            batch_size=plan.batch_size,
            max_examples=min(examples, plan.max_examples),
            candidates=plan.candidates,
            gradient_clip_norm=plan.gradient_clip_norm,
        )
        delta = local_train(checkpoint.config, checkpoint.weights, text, training, seed=_SEED).delta
        if np.isfinite(delta).all():
            return delta
    return np.zeros_like(checkpoint.weights)


def drawn_text(vocabulary: Vocabulary, count: int, length: int) -> I32:
    """Return messages of independent words, drawn by their public frequencies; shape (count, length + 1)."""
    weights = np.exp(vocabulary.log_frequencies.astype(np.float64))
    weights[: len(SPECIAL_TOKENS)] = 0.0
    words = min(_DRAWN_WORDS, length - 1)
    rows = np.zeros((count, length + 1), np.int32)
    rows[:, 0], rows[:, words + 1] = BOS, EOS
    rng = np.random.default_rng(_SEED)
    rows[:, 1 : words + 1] = rng.choice(len(vocabulary), (count, words), p=weights / weights.sum())
    return rows
