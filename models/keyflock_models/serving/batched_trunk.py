"""The network over a batch of contexts: the probabilities of all words, and the best of each block of words.

Shapes come from a small set, so that everything is compiled before the first query; a batch is padded to the
next shape. Finding the best of 10,000 words costs half as much as computing them, so the device also returns
the best of each block of words: the k most probable are within the k best blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from keyflock_models.arrays import F32, I32, Bool
from keyflock_models.network.cifg import Params, build_network
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head import MAX_RANK, PersonalHead, feature_space
from keyflock_models.serving.trunk_predictions import (
    BATCH_SIZES,
    BLOCK_WORDS,
    CONTEXT_LENGTHS,
    TrunkPredictions,
)
from keyflock_models.text.special_tokens import BOS, PAD


@dataclass(frozen=True, slots=True, eq=False)
class BatchedTrunk:
    """One model version, ready to predict for batches of contexts.

    Raises:
        ValueError: the weights are not those of this configuration.
    """

    config: ModelConfig
    #: The weights, as `ParamLayout.for_config(config)` lays them out. Shape (P,).
    weights: F32
    #: Which words may be shown. Shape (V,).
    is_shown: Bool
    #: Feature space of the weights: only heads of this space may be used.
    space: str = field(init=False)
    _params: Params = field(init=False, repr=False)
    _shown: jax.Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tensors = ParamLayout.for_config(self.config).unflatten(self.weights)
        object.__setattr__(self, "_params", {name: jnp.asarray(tensor) for name, tensor in tensors.items()})
        object.__setattr__(self, "space", feature_space(self.weights))
        object.__setattr__(self, "_shown", jnp.asarray(self.is_shown))

    def compile(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Compile every shape, with and without heads.

        Args:
            should_stop: Called between shapes; once true, the other shapes are compiled when they are needed.
        """
        no_head = PersonalHead(
            "0" * 32,
            np.zeros((self.config.embedding_size, 1), np.float32),
            np.zeros((1, self.config.embedding_size), np.float32),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
        )
        for batch in BATCH_SIZES:
            for length in CONTEXT_LENGTHS:
                for head in (None, no_head):
                    if should_stop():
                        return
                    self.predict([[BOS] * length] * batch, [head] * batch)

    def predict(self, contexts: list[list[int]], heads: list[PersonalHead | None]) -> TrunkPredictions:
        """Predict the word after each of these contexts.

        Args:
            contexts: Public ids, each beginning with BOS or cut to the longest of ``CONTEXT_LENGTHS``; at
                most the largest of ``BATCH_SIZES`` of them.
            heads: The head of each context, in this version's feature space, or None.
        """
        count = len(contexts)
        batch = next(size for size in BATCH_SIZES if size >= count)
        longest = max(len(context) for context in contexts)
        length = next(size for size in CONTEXT_LENGTHS if size >= longest)
        inputs: I32 = np.full((batch, length), PAD, np.int32)
        last: I32 = np.zeros(batch, np.int32)
        for row, context in enumerate(contexts):
            inputs[row, : len(context)] = context
            last[row] = len(context) - 1
        if any(head is not None for head in heads):
            adapters = self._stacked(heads, batch)
            found, best = _with_heads(self.config, self._params, inputs, last, self._shown, *adapters)
        else:
            found, best = _alone(self.config, self._params, inputs, last, self._shown)
        return TrunkPredictions(np.asarray(found)[:count], np.asarray(best)[:count])

    def _stacked(
        self, heads: list[PersonalHead | None], batch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width, words = self.config.embedding_size, self.config.vocabulary_size
        down = np.zeros((batch, width, MAX_RANK), np.float32)
        up = np.zeros((batch, MAX_RANK, width), np.float32)
        bias = np.zeros((batch, words), np.float16)
        for row, head in enumerate(heads):
            if head is not None:
                rank = head.down.shape[1]
                down[row, :, :rank], up[row, :rank] = head.down, head.up
                # Heads are stored in float16, so float16 loses nothing here, and halves what is moved.
                bias[row, head.bias_ids] = head.bias
        return down, up, bias


@partial(jax.jit, static_argnames=("config",))
def _alone(
    config: ModelConfig, params: Params, inputs: jax.Array, last: jax.Array, shown: jax.Array
) -> tuple[jax.Array, jax.Array]:
    module = build_network(config, params)
    states = module.hidden(inputs)[jnp.arange(len(inputs)), last]
    return _blocks(module.logits(states), shown)


@partial(jax.jit, static_argnames=("config",))
def _with_heads(
    config: ModelConfig,
    params: Params,
    inputs: jax.Array,
    last: jax.Array,
    shown: jax.Array,
    down: jax.Array,
    up: jax.Array,
    bias: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    module = build_network(config, params)
    states = module.hidden(inputs)[jnp.arange(len(inputs)), last]
    narrow = jnp.einsum("be,ber->br", states, down)
    adapted = states + jnp.einsum("br,bre->be", narrow, up)
    return _blocks(module.logits(adapted) + bias, shown)


def _blocks(logits: jax.Array, shown: jax.Array) -> tuple[jax.Array, jax.Array]:
    probabilities = jax.nn.softmax(logits, axis=1)
    room = -probabilities.shape[1] % BLOCK_WORDS
    offered = jnp.pad(jnp.where(shown, probabilities, -1.0), [(0, 0), (0, room)], constant_values=-1.0)
    return probabilities, offered.reshape(len(offered), -1, BLOCK_WORDS).max(axis=2)
