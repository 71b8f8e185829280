"""The CIFG recurrence over a whole batch of sequences, with its own derivative.

Moving work out of the loop makes it fast on a CPU: the caller computes the products with the input before it,
and the gradients of both weight matrices are one product each after it, where plain differentiation of the
scan would add up a full matrix in every step.
"""

from typing import TypeAlias

import jax
import jax.numpy as jnp

#: The arrays that the backward pass reads: activations (L, B, 3H), cells (L, B, H), states (L, B, E).
_Trace: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]


def _forward(drive: jax.Array, recurrent: jax.Array, projection: jax.Array) -> _Trace:
    batch, (hidden, width) = drive.shape[1], projection.shape

    def step(
        carry: tuple[jax.Array, jax.Array], drive_t: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], _Trace]:
        cell, state = carry
        z = drive_t + state @ recurrent
        gates, candidate = jax.nn.sigmoid(z[:, : 2 * hidden]), jnp.tanh(z[:, 2 * hidden :])
        forget, output = jnp.split(gates, 2, axis=1)
        cell = forget * cell + (1 - forget) * candidate
        state = (output * jnp.tanh(cell)) @ projection
        return (cell, state), (jnp.concatenate([gates, candidate], axis=1), cell, state)

    start = jnp.zeros((batch, hidden), drive.dtype), jnp.zeros((batch, width), drive.dtype)
    _, trace = jax.lax.scan(step, start, drive)
    return trace


@jax.custom_vjp
def cifg(drive: jax.Array, recurrent: jax.Array, projection: jax.Array) -> jax.Array:
    """Return the states of a coupled input-forget LSTM that starts from zero.

    Args:
        drive: The inputs' and the bias's part of the gates' pre-activations (forget, output, candidate).
            Shape (L, B, 3H), time first.
        recurrent: The weights from the projected state to the gates. Shape (E, 3H).
        projection: The weights from the units to the state that is passed on. Shape (H, E).
    Returns:
        The projected states, shape (L, B, E).
    Guarantees:
        Its gradient equals that of the plain loop up to rounding.
    Source:
        Greff et al. 2017, arXiv:1503.04069 (coupled gates); Sak et al. 2014, arXiv:1402.1128 (projection).
    """
    return _forward(drive, recurrent, projection)[2]


def _cifg_forward(
    drive: jax.Array, recurrent: jax.Array, projection: jax.Array
) -> tuple[jax.Array, tuple[_Trace, jax.Array, jax.Array]]:
    trace = _forward(drive, recurrent, projection)
    return trace[2], (trace, recurrent, projection)


def _cifg_backward(
    saved: tuple[_Trace, jax.Array, jax.Array], d_states: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    (activations, cells, states), recurrent, projection = saved
    hidden = projection.shape[0]
    cells_before = jnp.concatenate([jnp.zeros_like(cells[:1]), cells[:-1]])
    states_before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])

    def step(
        carry: tuple[jax.Array, jax.Array], at: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
        d_cell, d_state = carry
        activation, cell, cell_before, d_state_here = at
        forget, output, candidate = jnp.split(activation, 3, axis=1)
        d_state = d_state + d_state_here
        d_unit = d_state @ projection.T
        squashed = jnp.tanh(cell)
        d_cell = d_cell + d_unit * output * (1 - squashed * squashed)
        d_drive = jnp.concatenate(
            [
                d_cell * (cell_before - candidate) * forget * (1 - forget),
                d_unit * squashed * output * (1 - output),
                d_cell * (1 - forget) * (1 - candidate * candidate),
            ],
            axis=1,
        )
        return (d_cell * forget, d_drive @ recurrent.T), (d_drive, d_state)

    start = jnp.zeros_like(cells[0]), jnp.zeros_like(states[0])
    _, (d_drive, d_state) = jax.lax.scan(
        step, start, (activations, cells, cells_before, d_states), reverse=True
    )
    units = activations[..., hidden : 2 * hidden] * jnp.tanh(cells)
    d_recurrent = jnp.einsum("lbe,lbg->eg", states_before, d_drive)
    d_projection = jnp.einsum("lbh,lbe->he", units, d_state)
    return d_drive, d_recurrent, d_projection


cifg.defvjp(_cifg_forward, _cifg_backward)
