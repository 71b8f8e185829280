"""Trainers that train nothing, for trying everything else: quick, and the same on every machine."""

import hashlib
from collections.abc import Mapping

import numpy as np

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.events import Trained
from keyflock_client_sim.drivers.trainer import TrainingError
from keyflock_compression import CodecSpec, Layout, encode
from keyflock_server.protocol.messages import FailureCause


class ToyTrainer:
    """Its deltas are a few bytes that a scripted server takes for deltas.

    Args:
        examples: Sequences on each phone.
    """

    def __init__(self, examples: Mapping[str, int]) -> None:
        self._examples = examples
        #: Digests of the models that were stored.
        self.stored: set[bytes] = set()

    def store(self, digest: bytes, body: bytes) -> None:
        """See ``Trainer``."""
        del body
        self.stored.add(digest)

    async def train(self, phone: str, work: Train) -> Trained:
        """See ``Trainer``."""
        if work.model_digest not in self.stored:
            raise TrainingError(FailureCause.TRAINING_FAILED, f"no model {work.model_digest.hex()[:12]}")
        examples = min(self._examples[phone], work.plan.max_examples)
        return Trained(delta=_digest(phone, work) * 4, examples=examples, loss_before=5.0, loss_after=4.5)


class RandomTrainer:
    """Its deltas are noise, small and well encoded, so that any server takes them.

    Args:
        examples: Sequences on each phone.
        layout: Of the model.
    """

    def __init__(self, examples: Mapping[str, int], layout: Layout) -> None:
        self._examples = examples
        self._layout = layout

    def store(self, digest: bytes, body: bytes) -> None:
        """See ``Trainer``."""

    async def train(self, phone: str, work: Train) -> Trained:
        """See ``Trainer``."""
        rng = np.random.default_rng(int.from_bytes(_digest(phone, work)[:8]))
        delta = rng.normal(0.0, 1e-3, self._layout.size).astype(np.float32)
        container = encode(delta, self._layout, CodecSpec.from_wire(work.codec), seed=work.seed)
        return Trained(delta=container, examples=min(self._examples[phone], work.plan.max_examples))


def _digest(phone: str, work: Train) -> bytes:
    return hashlib.sha256(f"{phone}:{work.assignment}:{work.seed}".encode() + work.model_digest).digest()
