"""Fitting of a head on the phone: the trunk is frozen, its states are computed once, the rest is small.

The fit uses the full softmax over the vocabulary, Adam, and the epoch that was best on the user's latest
sentences; if that is the zeroth, there is no head: better none than one that does not help.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.head import MAX_BIASES, MAX_RANK, PersonalHead, is_bounded
from keyflock_models.text.special_tokens import OOV, SPECIAL_TOKENS

#: On fewer words a head learns its user's accidents: on chat, of a median of 150 words a user, heads alone
#: lost 4 % in recall@3, early stopping notwithstanding.
MIN_POSITIONS: Final = 300
#: Positions are padded to a multiple of this, and each multiple has one compiled program.
_BATCH_POSITIONS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """The settings of a fit, as a `personalize` task sends them."""

    #: Rank of the adapter; 0 fits the biases alone.
    rank: int = 8
    #: Number of words with a bias of their own, the user's most frequent ones.
    biases: int = 256
    #: Learning rate of Adam.
    learning_rate: float = 0.01
    epochs: int = 12
    #: The squared norm times this is added to the mean loss; it pulls towards no head at all.
    l2: float = 1e-3
    #: Share of the positions, the latest ones, on which the epochs are compared.
    held_out_ratio: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.rank <= MAX_RANK and 0 <= self.biases <= MAX_BIASES and 1 <= self.epochs <= 100):
            raise ValueError(f"rank is 0 to {MAX_RANK}, biases 0 to {MAX_BIASES}, epochs 1 to 100")
        if not (0 < self.learning_rate <= 1 and 0 <= self.l2 <= 100 and 0 < self.held_out_ratio < 1):
            raise ValueError("learning_rate is in (0, 1], l2 in [0, 100], held_out_ratio in (0, 1)")


class HeadModule(nnx.Module):
    """The head's parameters while they are fitted; `up` and the biases start at zero, which is no head."""

    def __init__(self, width: int, rank: int, biases: int, *, rngs: nnx.Rngs) -> None:
        self.down = nnx.Param(jax.random.normal(rngs.params(), (width, rank)) / jnp.sqrt(width))
        self.up = nnx.Param(jnp.zeros((rank, width)))
        self.bias = nnx.Param(jnp.zeros(biases))


def fit_head(
    states: F32,
    targets: I32,
    embedding: F32,
    output_bias: F32,
    settings: HeadSettings,
    *,
    space: str,
    seed: int,
) -> PersonalHead | None:
    """Fit a head; return the best on the latest positions, or None if none was better than no head.

    Args:
        states: The trunk's states before the user's words, in the order of typing. Shape (T, E).
        targets: The words' ids; only public ones are used. Shape (T,).
        embedding: The trunk's embedding. Shape (V, E).
        output_bias: The trunk's output bias. Shape (V,).
        settings: The settings of the fit.
        space: The trunk's feature space.
        seed: The seed of the adapter's first values.
    Edge cases:
        fewer than ``MIN_POSITIONS`` usable positions -> None; the numbers grew beyond all bounds -> None
    """
    is_used = (targets > OOV) & (targets < len(embedding))
    states, targets = states[is_used], targets[is_used]
    boundary = round(len(targets) * (1.0 - settings.held_out_ratio))
    if len(targets) < MIN_POSITIONS or boundary in {0, len(targets)}:
        return None
    words, counts = np.unique(targets[:boundary], return_counts=True)
    chosen = np.sort(words[np.argsort(-counts, kind="stable")[: settings.biases]]).astype(np.int32)
    chosen = chosen[chosen >= len(SPECIAL_TOKENS)]
    # Unused entries of the table point past the vocabulary, where scatter drops them.
    table = np.full(settings.biases, len(embedding), np.int32)
    table[: len(chosen)] = chosen
    module = HeadModule(embedding.shape[1], settings.rank, settings.biases, rngs=nnx.Rngs(params=seed))
    params = dict(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    train = _padded(states[:boundary], targets[:boundary])
    validation = _padded(states[boundary:], targets[boundary:])
    trunk = jnp.asarray(embedding), jnp.asarray(output_bias), jnp.asarray(table)
    optimizer = optax.adam(settings.learning_rate)
    optimizer_state = optimizer.init(params)
    best_loss, best = float(_loss(params, *validation, *trunk, 0.0)), None
    for _ in range(settings.epochs):
        for begin in range(0, len(train[0]), _BATCH_POSITIONS):
            at = slice(begin, begin + _BATCH_POSITIONS)
            batch = (part[at] for part in train)
            params, optimizer_state = _step(
                params, optimizer_state, *batch, *trunk, settings.l2, settings.learning_rate
            )
        loss = float(_loss(params, *validation, *trunk, 0.0))
        if loss < best_loss:
            best_loss, best = loss, params
    if best is None:
        return None
    found = {name: np.asarray(value, np.float32) for name, value in best.items()}
    if not is_bounded(*found.values()):
        return None
    return PersonalHead(space, found["down"], found["up"], chosen, found["bias"][: len(chosen)])


def _padded(states: F32, targets: I32) -> tuple[F32, I32, F32]:
    room = -len(targets) % _BATCH_POSITIONS
    weights = np.concatenate([np.ones(len(targets), np.float32), np.zeros(room, np.float32)])
    return np.pad(states, [(0, room), (0, 0)]), np.pad(targets, (0, room)), weights


@jax.jit
def _loss(
    params: dict[str, jax.Array],
    states: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    embedding: jax.Array,
    output_bias: jax.Array,
    table: jax.Array,
    l2: float,
) -> jax.Array:
    adapted = states + (states @ params["down"]) @ params["up"]
    bias = output_bias.at[table].add(params["bias"], mode="drop")
    logits = adapted @ embedding.T + bias
    at = jnp.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    nll = jax.nn.logsumexp(logits, axis=1) - at
    size = jnp.sum(params["up"] ** 2) + jnp.sum(params["bias"] ** 2)
    return jnp.sum(nll * weights) / jnp.maximum(jnp.sum(weights), 1.0) + l2 * size


@partial(jax.jit, static_argnames=("learning_rate",))
def _step(
    params: dict[str, jax.Array],
    optimizer_state: optax.OptState,
    states: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    embedding: jax.Array,
    output_bias: jax.Array,
    table: jax.Array,
    l2: float,
    learning_rate: float,
) -> tuple[dict[str, jax.Array], optax.OptState]:
    gradient = jax.grad(_loss)(params, states, targets, weights, embedding, output_bias, table, l2)
    updates, optimizer_state = optax.adam(learning_rate).update(gradient, optimizer_state, params)
    return {name: params[name] + updates[name] for name in params}, optimizer_state
