"""These trainers train nothing, for testing everything else: quick, and the same on every machine."""

import hashlib
from collections.abc import Mapping

import numpy as np

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.trainer import TrainingError
from keyflock_compression import Layout, encode, parse_spec
from keyflock_server.protocol.messages import FailureCause


class FakeTrainer:
    """Returns a few bytes that a ``ScriptedServer`` accepts as a delta.

    Args:
        examples: Sequences on each phone.
    """

    def __init__(self, examples: Mapping[str, int]) -> None:
        self._examples = examples
        #: Digests of the models that were stored.
        self.stored: set[bytes] = set()

    def store(self, digest: bytes, body: bytes) -> None:
        """Store a model; see ``Trainer``."""
        del body
        self.stored.add(digest)

    async def train(self, phone: str, work: Train) -> Trained:
        """Train for a phone; see ``Trainer``."""
        if work.model_digest not in self.stored:
            raise TrainingError(FailureCause.TRAINING_FAILED, f"no model {work.model_digest.hex()[:12]}")
        examples = min(self._examples[phone], work.plan.max_examples)
        return Trained(delta=_digest(phone, work) * 4, examples=examples, loss_before=5.0, loss_after=4.5)


class RandomDeltaTrainer:
    """Returns small random deltas, well encoded, so that any server accepts them.

    Args:
        examples: Sequences on each phone.
        layout: The layout of the model.
    """

    def __init__(self, examples: Mapping[str, int], layout: Layout) -> None:
        self._examples = examples
        self._layout = layout

    def store(self, digest: bytes, body: bytes) -> None:
        """Store a model; see ``Trainer``."""

    async def train(self, phone: str, work: Train) -> Trained:
        """Train for a phone; see ``Trainer``."""
        rng = np.random.default_rng(int.from_bytes(_digest(phone, work)[:8]))
        delta = rng.normal(0.0, 1e-3, self._layout.size).astype(np.float32)
        container = encode(delta, self._layout, parse_spec(work.codec), seed=work.seed)
        return Trained(delta=container, examples=min(self._examples[phone], work.plan.max_examples))


def _digest(phone: str, work: Train) -> bytes:
    return hashlib.sha256(f"{phone}:{work.assignment}:{work.seed}".encode() + work.model_digest).digest()
