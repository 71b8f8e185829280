"""The network as a scorer: it counts ranks on the device, where the logits are."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.scoring import TokenScores, targets_of
from keyflock_models.network.cifg import Params, build_network
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import PAD
from keyflock_models.text.vocabulary import Vocabulary

#: Number of sequences that go through the recurrence together, and of targets that go through the vocabulary
#: together. They are fixed, so that there is one compiled program for each length.
_ROWS = 64
_TARGETS = 512
#: Rows are cut to the next multiple of this, so that a message of seven words does not cost twenty.
_LENGTH_STEP = 4


@dataclass(frozen=True, slots=True, eq=False)
class NeuralScorer:
    """A scorer that is a CIFG-LSTM with its weights.

    Raises:
        ValueError: weights, configuration and vocabulary do not belong together.
    """

    config: ModelConfig
    #: Shape (P,), as `ParamLayout.for_config(config)` lays them out.
    weights: F32
    vocabulary: Vocabulary
    _params: Params = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.vocabulary) != self.config.vocabulary_size:
            msg = (
                f"a vocabulary of {len(self.vocabulary)} words for a network of {self.config.vocabulary_size}"
            )
            raise ValueError(msg)
        tensors = ParamLayout.for_config(self.config).unflatten(self.weights)
        object.__setattr__(self, "_params", {name: jnp.asarray(tensor) for name, tensor in tensors.items()})

    def score(self, sequences: I32) -> TokenScores:
        """Score every target of these sequences, shape (N, L + 1)."""
        row, column = targets_of(sequences)
        target = sequences[row, column + 1]
        states = self.states(sequences)[row, column]
        rank, nll = np.zeros(len(row), np.int32), np.zeros(len(row), np.float32)
        is_argmax = np.zeros(len(row), np.bool_)
        is_displayable = jnp.asarray(self.vocabulary.is_displayable)
        for start in range(0, len(row), _TARGETS):
            at = slice(start, start + _TARGETS)
            found = _rank(self.config, self._params, _filled(states[at]), _filled(target[at]), is_displayable)
            count = len(target[at])
            rank[at], is_argmax[at], nll[at] = (np.asarray(array)[:count] for array in found)
        return TokenScores(row, column, target, rank, is_argmax, nll)

    def log_probabilities(self, sequences: I32, row: I32, column: I32) -> F32:
        """Return log-probabilities of all words at some positions, shape (T, V); see `Scorer`."""
        rows, inverse = np.unique(row, return_inverse=True)
        states = self.states(sequences[rows])[inverse, column]
        blocks = [
            np.asarray(_log_softmax(self.config, self._params, _filled(states[start : start + _TARGETS])))
            for start in range(0, len(row), _TARGETS)
        ]
        return np.concatenate([np.zeros((0, self.config.vocabulary_size), np.float32), *blocks])[: len(row)]

    @property
    def output_product(self) -> tuple[F32, F32]:
        """The matrix that a state is multiplied with, shape (V, E), and the bias, shape (V,)."""
        return np.asarray(self._params["embedding"]), np.asarray(self._params["output_bias"])

    def states(self, sequences: I32) -> F32:
        """Return the network's state after each input, shape (N, L, E); zero where only PAD follows."""
        count, length = sequences.shape[0], sequences.shape[1] - 1
        states = np.zeros((count, length, self.config.embedding_size), np.float32)
        # Targets in a row: its last id that is not PAD has an input before it.
        used = ((sequences[:, 1:] != PAD) * np.arange(1, length + 1)).max(axis=1, initial=0)
        bucket = np.minimum(-(-used // _LENGTH_STEP) * _LENGTH_STEP, length)
        for size in np.unique(bucket[bucket > 0]):
            members = np.flatnonzero(bucket == size)
            for start in range(0, len(members), _ROWS):
                rows = members[start : start + _ROWS]
                inputs = np.full((_ROWS, size), PAD, np.int32)
                inputs[: len(rows)] = sequences[rows, :size]
                states[rows, :size] = np.asarray(_hidden(self.config, self._params, inputs))[: len(rows)]
        return states


def _filled(block: np.ndarray) -> np.ndarray:
    return np.pad(block, [(0, _TARGETS - len(block)), *[(0, 0)] * (block.ndim - 1)])


@partial(jax.jit, static_argnames=("config",))
def _hidden(config: ModelConfig, params: Params, inputs: jax.Array) -> jax.Array:
    return build_network(config, params).hidden(inputs)


@partial(jax.jit, static_argnames=("config",))
def _log_softmax(config: ModelConfig, params: Params, states: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(build_network(config, params).logits(states), axis=1)


@partial(jax.jit, static_argnames=("config",))
def _rank(
    config: ModelConfig, params: Params, states: jax.Array, targets: jax.Array, is_displayable: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return `scoring.rank_targets` and the targets' loss, without moving the logits off the device."""
    logits = build_network(config, params).logits(states)
    at = jnp.take_along_axis(logits, targets[:, None], axis=1)
    above = (logits > at) | ((logits == at) & (jnp.arange(logits.shape[1]) < targets[:, None]))
    rank = (above & is_displayable).sum(axis=1, dtype=jnp.int32)
    return rank, ~above.any(axis=1), jax.nn.logsumexp(logits, axis=1) - at[:, 0]
