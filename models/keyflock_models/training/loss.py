"""The training objective: mean negative log-likelihood of a batch's targets.

PAD and BOS are no targets. EOS and OOV are: both occur, and a network that could not predict an unknown word
would give that probability to words that it knows. Neither is ever suggested.
"""

import jax
import jax.numpy as jnp

from keyflock_models.network.cifg import Params, build_network
from keyflock_models.network.config import ModelConfig
from keyflock_models.training.batches import Batches


def mean_nll(
    config: ModelConfig, params: Params, batch: Batches, log_inclusion: jax.Array | None
) -> jax.Array:
    """Return the loss in nats per target, a scalar.

    Args:
        config: The model's size.
        params: The parameters; for a candidate softmax, with only the candidates' rows of the word-indexed
            ones, where the batch's ids are indices among the candidates.
        batch: One batch (no leading S).
        log_inclusion: That of `CandidateWords`; None is the full softmax.
    Edge cases:
        a batch without targets -> 0.0
    """
    model = build_network(config, params)
    states = model.hidden(batch.inputs)
    logits = model.logits(states.reshape(-1, states.shape[-1])[batch.positions])
    if log_inclusion is not None:
        logits = logits - log_inclusion
    # The target's logit is taken from its row: log_softmax would write the whole table once more.
    nll = jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, batch.targets[:, None], axis=1)[:, 0]
    return (nll * batch.weights).sum() / jnp.maximum(batch.weights.sum(), 1)
