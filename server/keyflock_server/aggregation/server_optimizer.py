"""The server's optimisers by name: Optax transformations that take the mean delta as their gradient.

| name       | Optax                         | published as                                              |
|------------|-------------------------------|-----------------------------------------------------------|
| fedavg     | identity                      | McMahan et al. 2017, arXiv:1602.05629 (learning rate 1)   |
| fedavgm    | trace (momentum)              | Hsu et al. 2019, arXiv:1909.06335                         |
| fedadagrad | ours, below                   | Reddi et al. 2021, arXiv:2003.00295, algorithm 2          |
| fedadam    | scale_by_adam                 | the same                                                  |
| fedyogi    | scale_by_yogi                 | the same                                                  |
| fedamsgrad | scale_by_amsgrad              | Tong et al. 2020, arXiv:2009.06303                        |

Each gives a direction; ``server_step`` applies the learning rate and the decoupled weight decay, so that a
schedule or another rate never changes the state's form.

Reddi et al. write FedAdam without bias correction and start the second moment at eps squared. Optax corrects
the bias and starts at zero, as the Keras optimiser did that their experiments ran with; so do we. FedAdagrad
is as they write: its accumulator starts at eps squared, and eps is added to its root. (Optax's own chain puts
eps under the root, where 1e-3 means thirty times as much.) FedYogi starts both moments at zero, where Optax's
own chain starts them at 1e-6: a first moment that is not zero would move words that nobody has typed.

Left out on purpose. Lion steps by the sign of its momentum, and a decaying momentum keeps its sign: a word
that was typed once would move by the whole rate in each of the thousand rounds after. LAMB wants one trust
ratio a layer, where the server holds one flat vector; a single ratio for all is but another learning rate.
"""

from collections.abc import Mapping
from typing import assert_never

import jax
import jax.numpy as jnp
import optax

from keyflock_server.rounds.task import OptimizerName


def server_optimizer(name: OptimizerName, parameters: Mapping[str, float]) -> optax.GradientTransformation:
    """Return the transformation to a step's direction, to be multiplied by the learning rate and subtracted.

    Args:
        name: The optimiser.
        parameters: All parameters that ``OPTIMIZER_DEFAULTS`` lists for it.
    """
    match name:
        case "fedavg":
            return optax.identity()
        case "fedavgm":
            return optax.trace(parameters["momentum"])
        case "fedadagrad":
            return _scale_by_adagrad(parameters["eps"])
        case "fedadam":
            return optax.scale_by_adam(parameters["b1"], parameters["b2"], parameters["eps"])
        case "fedyogi":
            return optax.scale_by_yogi(
                parameters["b1"], parameters["b2"], parameters["eps"], initial_accumulator_value=0.0
            )
        case "fedamsgrad":
            return optax.scale_by_amsgrad(parameters["b1"], parameters["b2"], parameters["eps"])
        case _:
            assert_never(name)


def _scale_by_adagrad(eps: float) -> optax.GradientTransformation:
    """Divide the gradient by the root of the sum of all squares so far, with eps added to the root."""

    def init(params: jax.Array) -> jax.Array:
        return jnp.full_like(params, eps**2)

    def update(
        gradient: jax.Array, squares: jax.Array, params: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        del params
        squares = squares + gradient * gradient
        return gradient / (jnp.sqrt(squares) + eps), squares

    return optax.GradientTransformation(init, update)
