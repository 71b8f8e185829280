"""The dead-zone quantiser: one uniform step for the whole delta, so that small values become zero.

Next-word deltas are heavy-tailed: 1 % of the values carry about 83 % of the energy, and they sit together in
the rows of the words that the phone typed. Dividing by a step of a few times the root mean square and
rounding sparsifies and quantises at once; row-major int8 with long runs of zeros is what zstd is good at.

Values beyond int8 are few and go into two streams of their own, so that the error bound holds for all.

Source: the quantiser is the uniform one of Mitchell et al. 2022, arXiv:2201.02664; the dead zone is that of
image codecs (Sullivan 1996).
"""

from typing import Final

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import (
    ContainerSizes,
    Encoded,
    StreamReader,
    refuse_values_without_scale,
)
from keyflock_compression.errors import MalformedContainer, NonFinite
from keyflock_compression.layout import Layout
from keyflock_compression.rounding import quantize
from keyflock_compression.spec import AdaptiveStepSpec
from keyflock_compression.update import DecodedUpdate, update_of

#: This int8 marks a value that the outlier stream holds.
ESCAPE: Final = -128
_MAX_INT8: Final = 127
#: Float32 has no digits for more steps than this; the step is raised until all values fit.
MAX_QUANTIZED: Final = 2**23
_SEARCH_STEPS: Final = 7
_SEARCH_RANGE: Final = (0.25, 64.0)


class DeadzoneCodec:
    """The codec writes one scale, the step, and two streams: int8 values (P bytes), and int32 outliers.

    Guarantees:
        A value's error is at most half a step (nearest), or below one step and zero in expectation
        (stochastic), up to float32 rounding. With ``target_nmse`` the delta's NMSE is at most the target when
        any step from 0.25 to 64 times the root mean square reaches it.
    Edge cases:
        zero vector -> step 0 and all zeros
    """

    def sizes(self, layout: Layout, spec: AdaptiveStepSpec) -> ContainerSizes:
        """Return one scale and a byte per value; the number of outliers depends on the delta."""
        return ContainerSizes(1, (layout.size, None))

    def encode(self, delta: Float32, layout: Layout, spec: AdaptiveStepSpec, seed: int) -> Encoded:
        """Encode the delta over its step, quantized."""
        step = choose_step(delta, spec, seed)
        if step == 0.0:  # the delta is zero, or below what float32 can represent
            return Encoded(np.zeros(1, np.float32), (bytes(delta.size), b""))
        quantized = quantize_delta(delta, step, spec, seed)
        is_outlier = np.abs(quantized) > _MAX_INT8
        outliers = quantized[is_outlier].astype("<i4")
        small = np.where(is_outlier, ESCAPE, quantized).astype(np.int8)
        return Encoded(np.array([step], np.float32), (small.tobytes(), outliers.tobytes()))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: AdaptiveStepSpec
    ) -> DecodedUpdate:
        """Decode the quantized numbers times the step."""
        small = np.frombuffer(streams.read(0, layout.size), np.int8)
        indices = np.flatnonzero(small)
        values = small[indices].astype(np.float32)
        is_outlier = values == ESCAPE
        outliers = np.frombuffer(streams.read(1, 4 * int(is_outlier.sum())), "<i4")
        is_small = (outliers >= -_MAX_INT8) & (outliers <= _MAX_INT8)
        if (
            is_small.any()
            or outliers.max(initial=0) > MAX_QUANTIZED
            or outliers.min(initial=0) < -MAX_QUANTIZED
        ):
            raise MalformedContainer(
                "an outlier is one that the int8 stream could have held, or is beyond 2**23"
            )
        values[is_outlier] = outliers
        refuse_values_without_scale(scales[0], values.size)
        with np.errstate(over="ignore"):
            values *= scales[0]
        if not np.isfinite(values).all():
            raise NonFinite("a value times the step is infinite")
        return update_of(layout.size, indices, values)


def choose_step(delta: Float32, spec: AdaptiveStepSpec, seed: int) -> np.float32:
    """Return the quantiser's step, in units of the parameters; 0 for a zero delta."""
    largest = np.float32(np.abs(delta).max(initial=0.0))
    if largest == 0.0:
        return np.float32(0.0)
    # In units of the largest value, because squares of very small ones leave the range of float32.
    relative = delta / largest
    rms = float(np.sqrt(np.dot(relative, relative) / delta.size))
    ratio = _search_step(relative, rms, spec, seed) if spec.step_rms is None else spec.step_rms
    step = max(ratio * rms, 1.0 / MAX_QUANTIZED) * float(largest)
    return np.float32(min(step, float(np.finfo(np.float32).max)))


def quantize_delta(delta: Float32, step: np.float32, spec: AdaptiveStepSpec, seed: int) -> Float32:
    """Return the delta in whole steps, each at most 2**23 in magnitude. Shape (P,), float32.

    Args:
        delta: The delta in units of the parameters. Shape (P,), float32.
        step: The step from ``choose_step``, above 0.
        spec: The spec, which names the rounding.
        seed: The seed of stochastic rounding.
    """
    quantized = quantize(delta / step, spec.rounding, seed)
    # Stochastic rounding, or a step in float32's last digits, could exceed the limit that decoding checks.
    return np.clip(quantized, -MAX_QUANTIZED, MAX_QUANTIZED, out=quantized)


def _search_step(delta: Float32, rms: float, spec: AdaptiveStepSpec, seed: int) -> float:
    """Return the largest step, in units of ``rms``, that keeps the delta's NMSE within the target."""
    target = spec.target_nmse
    assert target is not None  # noqa: S101 - AdaptiveStepSpec holds one of the two
    allowed = target * rms * rms * delta.size
    low, high = _SEARCH_RANGE
    live, lost = delta, 0.0
    for _ in range(_SEARCH_STEPS):
        middle = float(np.sqrt(low * high))
        step = np.float32(middle * rms)
        error = live - quantize(live / step, spec.rounding, seed) * step
        if lost + float(np.dot(error, error)) > allowed:
            high = middle
            continue
        low = middle
        if spec.rounding == "nearest":
            # What this step rounds to zero, every longer one does: its error is settled.
            is_live = np.abs(live) > np.float32(0.5) * step
            settled = live[~is_live]
            live, lost = live[is_live], lost + float(np.dot(settled, settled))
    return low
