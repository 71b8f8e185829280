"""The payload is a checkpoint to start from, and valid deltas, each encoded once and sent by many phones.

Reports that repeat another's numbers make no flush larger, so there are some hundred deltas that differ a
little in length.

A delta is synthetic but shaped like a real one, where about a hundredth of the vocabulary's rows hold most
of the energy, so that its size and the cost of decoding it are those of real reports.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import numpy as np
from numpy.typing import NDArray

from keyflock_compression import DEFAULT_SPEC, encode, parse_spec
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.cifg import init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_server.protocol.messages import Assignment

ACTIVE_ROW_SHARE = 0.012
DELTA_NORM = 1.0
#: Deltas that differ: several times as many as a round of the scenarios has phones.
VARIANTS = 256
_STREAM_DELTAS = 8


def synthetic_delta(layout: ParamLayout, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a heavy-tailed update of norm ``DELTA_NORM`` that touches few rows. Shape (P,), float32."""
    delta = np.empty(layout.size, np.float32)
    for shape, offset in zip(layout.shapes, layout.offsets, strict=True):
        size = int(np.prod(shape))
        values = rng.laplace(size=shape)
        if len(shape) == 2 and shape[0] >= 1_000:
            rows = rng.random(shape[0]) < ACTIVE_ROW_SHARE
            values *= np.where(rows, 10.0, 0.05)[:, None]
        delta[offset : offset + size] = values.ravel()
    return delta * np.float32(DELTA_NORM / np.linalg.norm(delta))


def stream_containers(layout: ParamLayout, seed: int) -> list[bytes]:
    """Return different deltas in the default codec, of which a stream's distinct ones are made."""
    rng = np.random.default_rng([seed, _STREAM_DELTAS])
    return [encode(synthetic_delta(layout, rng), layout, DEFAULT_SPEC, seed=0) for _ in range(_STREAM_DELTAS)]


def fresh_checkpoint(model_size: str, seed: int) -> Checkpoint:
    """Return an untrained model of a named size, with the public vocabulary."""
    return checkpoint_of(ModelConfig.named(model_size), seed)


def checkpoint_of(config: ModelConfig, seed: int) -> Checkpoint:
    """Return an untrained model, with the public vocabulary."""
    vocabulary = public_vocabulary(size=config.vocabulary_size)
    weights = ParamLayout.for_config(config).flatten(
        init_params(config, jax.random.key(seed), vocabulary.log_frequencies)
    )
    return Checkpoint(config=config, vocabulary=vocabulary, weights=weights, lineage={"made_by": "load test"})


@dataclass(slots=True)
class ReadyDeltas:
    """Encoded deltas by codec; each is encoded once, when the first phone needs it."""

    layout: ParamLayout
    delta: NDArray[np.float32]
    _encoded: dict[str, bytes] = field(default_factory=dict)

    def for_assignment(self, assignment: Assignment) -> bytes:
        """Return a container that ``assignment``'s server accepts."""
        return self.in_codec(assignment.codec, assignment.seed)

    def in_codec(self, codec: Mapping[str, object], seed: int = 0) -> bytes:
        """Return a variant of the delta in the codec of this wire form; the seed selects the variant.

        Where the codec draws from the seed, each seed has a container of its own.
        """
        spec = parse_spec(codec)
        variant = seed % VARIANTS
        seed = seed if spec.sends_seed else 0
        key = json.dumps([variant, seed, codec], sort_keys=True, default=str)
        if key not in self._encoded:
            delta = self.delta * np.float32(1.0 - variant / (100 * VARIANTS))
            self._encoded[key] = encode(delta, self.layout, spec, seed=seed)
        return self._encoded[key]
