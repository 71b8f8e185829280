"""Error feedback: the phone stores what a report lost and adds it to its next delta.

A coarse codec drops the same small values each time; over many reports of a phone they are no longer small.
The residual is stored as a ``dense`` container (a byte per value), for as long as the spec's ``feedback_s``
says: after that the model has moved on, and what was true of the old one is noise to the new. Only the phone
stores it; no call carries it. What a report that was not counted held is lost, as without feedback.

With a target NMSE of e the residual's norm stays within √e / (1 - √e) of the largest delta's. With
``step_rms`` nothing bounds it where a step loses nearly everything: the step grows with what has been left.
But it grows by no more than a delta a report, for nearest rounding loses at most the value. A codec that may
lose more (``randmask``, stochastic rounding with a step of the delta's own) would amplify its own errors.

Source: Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, arXiv:1901.09847.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.codec import decode, encode
from keyflock_compression.errors import CodecError, WrongLayout
from keyflock_compression.layout import Layout
from keyflock_compression.spec import CodecSpec, DenseSpec

_RESIDUAL_SPEC: Final = DenseSpec(zstd_level=1)


@dataclass(frozen=True, slots=True)
class Residual:
    """The part of the delta that a phone's last report lost."""

    container: bytes
    #: When it was stored, by the phone's clock.
    stored_at_s: float


def encode_with_feedback(
    delta: Float32, layout: Layout, spec: CodecSpec, before: Residual | None, *, seed: int, now_s: float
) -> tuple[bytes, Residual | None]:
    """Encode the delta plus what the last report lost; return the container and what this one loses.

    Args:
        delta: Shape (P,), float32.
        layout: The layout of the values.
        spec: The spec; without ``feedback_s`` nothing is added and nothing is stored.
        before: What the last report lost; ignored when it is older than ``feedback_s``, dated in the
            future, or has another layout.
        seed: The seed, as for ``encode``.
        now_s: The time by the phone's clock.
    Raises:
        CodecError: as for ``encode``.
    """
    if spec.feedback_s is None:
        return encode(delta, layout, spec, seed=seed), None
    if delta.shape != (layout.size,):
        raise WrongLayout(f"the delta has shape {delta.shape}; ({layout.size},) was expected")
    wanted = delta + _valid_residual(before, layout, spec.feedback_s, now_s)
    container = encode(wanted, layout, spec, seed=seed)
    lost = wanted - decode(container, layout).dense()
    return container, Residual(encode(lost, layout, _RESIDUAL_SPEC, seed=0), now_s)


def _valid_residual(before: Residual | None, layout: Layout, feedback_s: float, now_s: float) -> Float32:
    if before is not None and 0.0 <= now_s - before.stored_at_s <= feedback_s:
        try:
            return decode(before.container, layout, spec=_RESIDUAL_SPEC).dense()
        except CodecError:
            pass  # it belongs to another model, or is damaged: better none than a wrong one
    return np.zeros(layout.size, np.float32)
