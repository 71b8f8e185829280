"""The training objective: mean negative log-likelihood of a batch's targets.

PAD and BOS are no targets. EOS and OOV are: both are things that happen, and a network that may not say "a
word I do not know" would give that probability to words that it does know. Neither is ever suggested.
"""

import jax
import jax.numpy as jnp

from keyflock_models.batches import Batches
from keyflock_models.config import ModelConfig
from keyflock_models.network import Params, network


def mean_nll(
    config: ModelConfig, params: Params, batch: Batches, log_inclusion: jax.Array | None
) -> jax.Array:
    """Nats a target, a scalar.

    Args:
        config: The model's size.
        params: The parameters; for a candidate softmax, with only the candidates' rows of the word-indexed
        ones,
            the batch's ids being places among the candidates.
        batch: One batch (no leading S).
        log_inclusion: Of `CandidateWords`; None is the full softmax.
    Edge cases:
        a batch without targets -> 0.0
    """
    model = network(config, params)
    states = model.hidden(batch.inputs)
    logits = model.logits(states.reshape(-1, states.shape[-1])[batch.places])
    if log_inclusion is not None:
        logits = logits - log_inclusion
    # The target's logit is taken from its row: log_softmax would write the whole table once more.
    nll = jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, batch.targets[:, None], axis=1)[:, 0]
    return (nll * batch.weights).sum() / jnp.maximum(batch.weights.sum(), 1)
