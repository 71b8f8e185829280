"""The next-word network: a CIFG-LSTM with the same word vectors for input and output.

Inside it is a Flax NNX module; at the boundary it is a plain dictionary of arrays (`Params`), so that
training is a pure function under `jit`. The module takes its vocabulary's size from the arrays:
`build_network(config, params)` with some rows of the embedding is the same network over fewer words, which is
how the candidate softmax works.
"""

from functools import lru_cache, partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from keyflock_models.arrays import F32
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.recurrence import cifg

#: One array for each name of `ParamLayout.for_config(config)`.
Params: TypeAlias = dict[str, jax.Array]


class CifgLanguageModel(nnx.Module):
    """A coupled input-forget LSTM with a recurrent projection, which gives next-word logits.

    The projection brings the units back to the embedding's width, so the transposed embedding is the output
    layer.

    Source:
        Hard et al. 2018, arXiv:1811.03604, section 3; Press and Wolf 2017, arXiv:1608.05859 (tied embedding).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        v, e, h = config.vocabulary_size, config.embedding_size, config.hidden_size
        fan_in = jax.nn.initializers.lecun_normal()
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (v, e)) / jnp.sqrt(e))
        self.output_bias = nnx.Param(jnp.zeros(v))
        self.input_kernel = nnx.Param(fan_in(rngs.params(), (e, 3 * h)))
        self.recurrent_kernel = nnx.Param(fan_in(rngs.params(), (e, 3 * h)))
        # Gates in the order forget, output, candidate. A forget bias of 1 keeps early gradients alive.
        self.gate_bias = nnx.Param(jnp.zeros(3 * h).at[:h].set(1.0))
        self.projection = nnx.Param(fan_in(rngs.params(), (h, e)))

    def hidden(self, tokens: jax.Array) -> jax.Array:
        """Return the state after each token, shape (B, L, E), for token ids of shape (B, L)."""
        embedded = self.embedding[...][tokens.T]
        drive = embedded @ self.input_kernel[...] + self.gate_bias[...]
        states = cifg(drive, self.recurrent_kernel[...], self.projection[...])
        return states.swapaxes(0, 1)

    def logits(self, states: jax.Array) -> jax.Array:
        """Return the words' unnormalised log-probabilities, shape (..., V), for states of shape (..., E)."""
        return states @ self.embedding[...].T + self.output_bias[...]

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Return the logits of the word after each token, shape (B, L, V), for token ids of shape (B, L)."""
        return self.logits(self.hidden(tokens))


@lru_cache(maxsize=64)
def _structure(config: ModelConfig) -> nnx.GraphDef[CifgLanguageModel]:
    shapes = nnx.eval_shape(lambda: CifgLanguageModel(config, rngs=nnx.Rngs(params=jax.random.key(0))))
    return nnx.split(shapes)[0]


def build_network(config: ModelConfig, params: Params) -> CifgLanguageModel:
    """Return the module with these parameters; it is cheap enough to call inside a traced function."""
    return nnx.merge(_structure(config), params)


def init_params(config: ModelConfig, key: jax.Array, log_frequencies: F32 | None = None) -> Params:
    """Return fresh parameters.

    Args:
        config: The size.
        key: A JAX random key (`jax.random.key(seed)`).
        log_frequencies: If given, the output bias: the network then begins as the unigram of the public list,
            and a federation need not spend its first rounds on learning which words are frequent.
    Raises:
        ValueError: log_frequencies is not of shape (V,).
    """
    params: Params = _random_params(config, key)
    if log_frequencies is not None:
        if log_frequencies.shape != (config.vocabulary_size,):
            msg = f"{log_frequencies.shape} log-frequencies for {config.vocabulary_size} words"
            raise ValueError(msg)
        params["output_bias"] = jnp.asarray(log_frequencies, jnp.float32)
    return params


@partial(jax.jit, static_argnames=("config",))
def _random_params(config: ModelConfig, key: jax.Array) -> Params:
    module = CifgLanguageModel(config, rngs=nnx.Rngs(params=key))
    params: Params = dict(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    return params
