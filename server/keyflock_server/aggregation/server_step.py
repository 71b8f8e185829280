"""One step of the global model: weights and optimiser state in, weights and optimiser state out.

The mean delta is before minus after, so it points where a gradient points and a plain optimiser descends:

    weights - rate · (direction + weight_decay · weights)

The state stays valid for other values of an optimiser's parameters, of the rate and of the schedule: moments
continue with the new decay rates, and the schedule with the number of steps so far. It is not valid for
another optimiser: two of them may have vectors of the same shape that mean different things.
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

from keyflock_server.aggregation.learning_rate import rate_ratio
from keyflock_server.aggregation.optimizer_errors import CorruptedOptimizerState, OptimizerMismatch
from keyflock_server.aggregation.server_optimizer import server_optimizer
from keyflock_server.rounds.task import LearningRateSchedule, OptimizerName

_DIGITS: Final = 4
_NAME, _STEPS = "optimizer", "steps"
_CONSTANT: Final = LearningRateSchedule()


class StepResult(NamedTuple):
    """The result of a step."""

    #: Shape (P,), float32.
    weights: NDArray[np.float32]
    #: The optimiser's state for the next step.
    state: bytes


class _State(NamedTuple):
    """The optimiser's state between steps."""

    inner: optax.OptState
    #: Number of steps so far.
    steps: int


def server_step(
    weights: NDArray[np.float32],
    state: bytes | None,
    mean_delta: NDArray[np.float32],
    name: OptimizerName,
    parameters: Mapping[str, float],
    schedule: LearningRateSchedule = _CONSTANT,
) -> StepResult:
    """Apply the server optimiser once.

    Args:
        weights: The master weights, shape (P,), float32.
        state: The state after the last step of this optimiser; None for the first step.
        mean_delta: The aggregate's mean, shape (P,), float32.
        name: The optimiser.
        parameters: All its parameters; ``weight_decay`` may be missing.
        schedule: The schedule of the learning rate.
    Raises:
        OptimizerMismatch: ``state`` belongs to another optimiser.
        CorruptedOptimizerState: ``state`` is no state, or has another size.
    """
    direction_of = {
        key: value for key, value in parameters.items() if key not in ("learning_rate", "weight_decay")
    }
    optimizer, step = _compiled(name, tuple(sorted(direction_of.items())))
    before = _State(optimizer.init(weights), 0)
    if state is not None:
        before = _restored(state, before.inner, name)
    rate = parameters["learning_rate"] * rate_ratio(schedule, before.steps)
    decay = parameters.get("weight_decay", 0.0)
    new_weights, after = step(weights, before.inner, mean_delta, np.float32(rate), np.float32(decay))
    return StepResult(np.asarray(new_weights), _stored(after, before.steps + 1, name))


@lru_cache(maxsize=16)
def _compiled(
    name: OptimizerName, parameters: tuple[tuple[str, float], ...]
) -> tuple[optax.GradientTransformation, Callable[..., tuple[jax.Array, optax.OptState]]]:
    optimizer = server_optimizer(name, dict(parameters))

    def step(
        weights: jax.Array, state: optax.OptState, mean_delta: jax.Array, rate: jax.Array, decay: jax.Array
    ) -> tuple[jax.Array, optax.OptState]:
        direction, after = optimizer.update(mean_delta, state, weights)
        return weights - rate * (direction + decay * weights), after

    return optimizer, jax.jit(step)


def _stored(state: optax.OptState, steps: int, name: OptimizerName) -> bytes:
    """Return the state's leaves in their order as safetensors, which hold data and never code."""
    leaves = jax.tree.leaves(state)
    tensors: dict[str, NDArray[Any]] = {
        f"{index:0{_DIGITS}}": np.asarray(leaf) for index, leaf in enumerate(leaves)
    }
    own: dict[str, NDArray[Any]] = {
        _NAME: np.frombuffer(name.encode(), np.uint8),
        _STEPS: np.array([steps], np.int64),
    }
    return save(tensors | own)


def _restored(data: bytes, like: optax.OptState, name: OptimizerName) -> _State:
    """Return the state in ``data``, with the structure, shapes and types of ``like``."""
    leaves, structure = jax.tree.flatten(like)
    try:
        tensors: dict[str, NDArray[Any]] = load(data)
    except (SafetensorError, KeyError) as error:
        raise CorruptedOptimizerState(f"not an optimiser's state: {error}") from None
    # Releases before schedules stored neither; their rates were constant.
    owner = tensors.pop(_NAME, np.frombuffer(name.encode(), np.uint8)).tobytes().decode(errors="replace")
    steps = tensors.pop(_STEPS, np.zeros(1, np.int64))
    if steps.shape != (1,) or steps.dtype != np.int64 or steps[0] < 0:
        raise CorruptedOptimizerState("the state does not say how many steps were made")
    if owner != name:
        raise OptimizerMismatch(
            f"the state is that of {owner!r}, and means nothing to {name}; create a new task for {name}"
        )
    found = [tensors[key] for key in sorted(tensors)]
    if [_shape_and_dtype(leaf) for leaf in found] != [_shape_and_dtype(np.asarray(leaf)) for leaf in leaves]:
        raise CorruptedOptimizerState("the state is that of another optimiser, or of another model")
    return _State(jax.tree.unflatten(structure, found), int(steps[0]))


def _shape_and_dtype(leaf: NDArray[Any]) -> tuple[tuple[int, ...], str]:
    return leaf.shape, str(leaf.dtype)
