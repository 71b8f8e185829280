"""One step of the global model: weights and optimiser state in, weights and optimiser state out.

The mean delta is before minus after, so it points where a gradient points and a plain optimiser descends.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import jax
import numpy as np
import optax
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from keyflock_server.aggregation.server_optimizer import server_optimizer
from keyflock_server.rounds.task import OptimizerName

_DIGITS: Final = 4


class CorruptedOptimizerState(ValueError):
    """Fault of the store: the bytes are not a state of this optimiser for this model."""


class StepResult(NamedTuple):
    """What a step makes."""

    #: Shape (P,), float32.
    weights: NDArray[np.float32]
    #: The optimiser's state, for the next step.
    state: bytes


def server_step(
    weights: NDArray[np.float32],
    state: bytes | None,
    mean_delta: NDArray[np.float32],
    name: OptimizerName,
    parameters: Mapping[str, float],
) -> StepResult:
    """Apply the server optimiser once.

    Args:
        weights: The master weights, shape (P,), float32.
        state: What the last step of this optimiser gave; None for the first.
        mean_delta: The aggregate's mean, shape (P,), float32.
        name: The optimiser.
        parameters: Its parameters, all of them.
    Raises:
        CorruptedOptimizerState: ``state`` is not this optimiser's, or of another size.
    """
    optimizer, step = _compiled(name, tuple(sorted(parameters.items())))
    before = optimizer.init(weights)
    if state is not None:
        before = _restored(state, before)
    new_weights, after = step(weights, before, mean_delta)
    return StepResult(np.asarray(new_weights), _stored(after))


@lru_cache(maxsize=16)
def _compiled(
    name: OptimizerName, parameters: tuple[tuple[str, float], ...]
) -> tuple[optax.GradientTransformation, Callable[..., tuple[jax.Array, optax.OptState]]]:
    optimizer = server_optimizer(name, dict(parameters))

    def step(
        weights: jax.Array, state: optax.OptState, mean_delta: jax.Array
    ) -> tuple[jax.Array, optax.OptState]:
        updates, after = optimizer.update(mean_delta, state, weights)
        return weights + updates, after

    return optimizer, jax.jit(step)


def _stored(state: optax.OptState) -> bytes:
    """The state's leaves in their order, as safetensors: data, never code."""
    leaves = jax.tree.leaves(state)
    return save({f"{index:0{_DIGITS}}": np.asarray(leaf) for index, leaf in enumerate(leaves)})


def _restored(data: bytes, like: optax.OptState) -> optax.OptState:
    """The state in ``data``, with the structure, shapes and types of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    try:
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError) as error:
        raise CorruptedOptimizerState(f"not an optimiser's state: {error}") from None
    found = [tensors[key] for key in sorted(tensors)]
    if [_kind(leaf) for leaf in found] != [_kind(np.asarray(leaf)) for leaf in leaves]:
        raise CorruptedOptimizerState("the state is that of another optimiser, or of another model")
    return jax.tree.unflatten(structure, found)


def _kind(leaf: NDArray[Any]) -> tuple[tuple[int, ...], str]:
    return leaf.shape, str(leaf.dtype)
