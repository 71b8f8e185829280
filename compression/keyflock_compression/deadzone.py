"""The dead-zone quantiser: one uniform step for the whole delta, so that what is small becomes zero.

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
from keyflock_compression.errors import MalformedContainer, NonFinite
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.rounding import to_whole
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import SPARSE_SHARE, DecodedUpdate, DenseUpdate, SparseUpdate

#: Marks in the int8 stream a value that the outlier streams hold.
ESCAPE: Final = -128
_MOST: Final = 127
#: A quantised value beyond this would be a step of nothing; the step is raised until all fit.
MOST_WHOLE: Final = 2**23
_SEARCH_STEPS: Final = 7
_SEARCH_RANGE: Final = (0.25, 64.0)


class DeadzoneCodec:
    """One scale, the step; two streams: int8 values (P bytes), and the outliers (int32 each).

    Guarantees:
        A value's error is at most half a step (nearest), or below one step and zero in expectation
        (stochastic), up to float32 rounding. With ``target_nmse`` the delta's NMSE is at most the target when
        any step from 0.25 to 64 times the root mean square reaches it.
    Edge cases:
        zero vector -> step 0 and all zeros
    """

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """A byte a value; outliers are as many as there are."""
        return Sizes(1, (layout.size, None))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The delta over its step, as whole numbers."""
        step = step_of(delta, spec, seed)
        if step == 0.0:  # nothing to say, or nothing that float32 could
            return Encoded(np.zeros(1, np.float32), (bytes(delta.size), b""))
        whole = steps_of(delta, step, spec, seed)
        is_outlier = np.abs(whole) > _MOST
        outliers = whole[is_outlier].astype("<i4")
        small = np.where(is_outlier, ESCAPE, whole).astype(np.int8)
        return Encoded(np.array([step], np.float32), (small.tobytes(), outliers.tobytes()))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """The whole numbers times the step."""
        small = np.frombuffer(streams.read(0, layout.size), np.int8)
        indices = np.flatnonzero(small)
        values = small[indices].astype(np.float32)
        is_outlier = values == ESCAPE
        outliers = np.frombuffer(streams.read(1, 4 * int(is_outlier.sum())), "<i4")
        is_small = (outliers >= -_MOST) & (outliers <= _MOST)
        if is_small.any() or outliers.max(initial=0) > MOST_WHOLE or outliers.min(initial=0) < -MOST_WHOLE:
            raise MalformedContainer(
                "an outlier is one that the int8 stream could have held, or is beyond 2**23"
            )
        values[is_outlier] = outliers
        with np.errstate(over="ignore"):
            values *= scales[0]
        if not np.isfinite(values).all():
            raise NonFinite("a value times the step is infinite")
        if indices.size > SPARSE_SHARE * layout.size:
            vector = np.zeros(layout.size, np.float32)
            vector[indices] = values
            return DenseUpdate(vector)
        return SparseUpdate(layout.size, indices, values)


def step_of(delta: Float32, spec: CodecSpec, seed: int) -> np.float32:
    """The quantiser's step, in units of the parameters; 0 for a zero delta."""
    most = np.float32(np.abs(delta).max(initial=0.0))
    if most == 0.0:
        return np.float32(0.0)
    # In units of the largest value, because squares of very small ones leave the range of float32.
    relative = delta / most
    rms = float(np.sqrt(np.dot(relative, relative) / delta.size))
    ratio = _searched(relative, rms, spec, seed) if spec.step_rms is None else spec.step_rms
    step = max(ratio * rms, 1.0 / MOST_WHOLE) * float(most)
    return np.float32(min(step, float(np.finfo(np.float32).max)))


def steps_of(delta: Float32, step: np.float32, spec: CodecSpec, seed: int) -> Float32:
    """The delta in whole steps, each at most 2**23 in magnitude. Shape (P,), float32.

    Args:
        delta: In units of the parameters. Shape (P,), float32.
        step: That of ``step_of``, above 0.
        spec: Says which rounding.
        seed: Of stochastic rounding.
    """
    whole = to_whole(delta / step, spec.rounding, seed)
    # Chance, or a step that float32 has no digits for, would take the largest beyond what is decoded.
    return np.clip(whole, -MOST_WHOLE, MOST_WHOLE, out=whole)


def _searched(delta: Float32, rms: float, spec: CodecSpec, seed: int) -> float:
    """The largest step, in units of ``rms``, that keeps the delta's NMSE within the target."""
    target = spec.target_nmse
    assert target is not None  # noqa: S101 - CodecSpec holds one of the two
    allowed = target * rms * rms * delta.size
    low, high = _SEARCH_RANGE
    live, lost = delta, 0.0
    for _ in range(_SEARCH_STEPS):
        middle = float(np.sqrt(low * high))
        step = np.float32(middle * rms)
        error = live - to_whole(live / step, spec.rounding, seed) * step
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
