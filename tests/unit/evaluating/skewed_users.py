"""Phones whose users share a few frequent words, and a model that suggests words by their ranks alone."""

import random

import numpy as np
from tests.unit.personalising.phone_users import CONFIG, LAYOUT, VOCABULARY, WORDS

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_compression import encode, parse_spec
from keyflock_models.arrays import F32
from keyflock_models.network.checkpoint import Checkpoint

#: How often the most frequent words are typed; the rest is spread over all others.
SHARES = (0.3, 0.2, 0.15, 0.05)
#: Biases that rank these words in this order; a download rounds them to steps of less than a hundredth.
BIASES = (1.0, 0.9, 0.8, 0.7)


def typed(seed: int, messages: int = 150) -> tuple[str, ...]:
    """Return what one user types: words drawn by their shares, eight to a message."""
    rng = random.Random(seed)
    weights = [*SHARES, *[(1.0 - sum(SHARES)) / (len(WORDS) - len(SHARES))] * (len(WORDS) - len(SHARES))]
    return tuple(" ".join(rng.choices(WORDS, weights, k=8)) for _ in range(messages))


def ranking_weights(biases: tuple[float, ...] = BIASES) -> F32:
    """Return the weights of a network that always suggests the same words, in the order of ``WORDS``."""
    tensors = {
        name: np.zeros(shape, np.float32) for name, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True)
    }
    for word, bias in zip(WORDS, biases, strict=False):
        (row,) = VOCABULARY.encode([word])
        tensors["output_bias"][row] = bias
    return LAYOUT.flatten(tensors)


def ranking_checkpoint() -> Checkpoint:
    """Return version 0: the three most frequent words are its first three suggestions."""
    return Checkpoint(CONFIG, VOCABULARY, ranking_weights())


class SpoilingTrainer:
    """Sends the delta after which the fourth word is suggested in the place of the third."""

    def store(self, digest: bytes, body: bytes) -> None:
        """Ignore the model."""

    async def train(self, phone: str, work: Train) -> Trained:
        """Return the delta, a little shorter for each phone, so that none repeats another's."""
        after = ranking_weights((*BIASES[:2], 0.5, 0.9))
        delta = (ranking_weights() - after) * np.float32(1.0 - 2.0**-12 * int(phone[6:]))
        return Trained(delta=encode(delta, LAYOUT, parse_spec(work.codec), seed=0), examples=1)
