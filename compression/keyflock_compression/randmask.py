"""The codec that sends values drawn by the seed; the server draws the same, so no positions are sent.

The vector is cut into runs of S values, and one value of each run is drawn, so that decoding touches only
what was sent. Each value has the same chance, and is sent S times as large: the mean over seeds is the delta.
One delta's error is about S - 1 times its energy, and only the mean of many makes it small; its norm is about
sqrt(S) times what it was, alike for all phones.

Source: Konecny et al. 2016, arXiv:1610.05492, "random mask"; drawing one of each run rather than each by
itself fixes the number, docs/decisions/0029.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import (
    ContainerSizes,
    Encoded,
    StreamReader,
    refuse_values_without_scale,
)
from keyflock_compression.errors import NonFinite
from keyflock_compression.layout import Layout
from keyflock_compression.packing import to_signed
from keyflock_compression.rounding import quantize
from keyflock_compression.spec import RandmaskSpec
from keyflock_compression.splitmix import SEED_BYTES, splitmix64
from keyflock_compression.update import SPARSE_SHARE, DecodedUpdate, DenseUpdate, SparseUpdate

_LEVELS: Final = 127


class RandmaskCodec:
    """The codec writes one scale, and two streams: the seed, and one signed byte per run.

    Guarantees:
        Over seeds, with stochastic rounding, a value's mean is the value, up to float32 rounding. A sent
        value is within half a scale (nearest) or one scale (stochastic) of the value times its run's length.
    Edge cases:
        all drawn values are zero -> scale 0
    """

    def sizes(self, layout: Layout, spec: RandmaskSpec) -> ContainerSizes:
        """Return one scale and a byte per run."""
        return ContainerSizes(1, (SEED_BYTES, -(-layout.size // _run_length(layout, spec))))

    def encode(self, delta: Float32, layout: Layout, spec: RandmaskSpec, seed: int) -> Encoded:
        """Encode the values that the seed draws as int8."""
        run = _run_length(layout, spec)
        drawn = delta[_drawn_indices(seed, run, layout)]
        # The last run may be shorter, and a value of it was likelier to be drawn.
        weights = np.full(drawn.size, run, np.float32)
        weights[-1:] = layout.size - run * (drawn.size - 1)
        # Relative to the largest value, so that nothing leaves the range of float32.
        largest = np.abs(drawn).max(initial=np.float32(0))
        relative = drawn / (largest or np.float32(1)) * (weights / np.float32(run))
        quantized = quantize(relative * np.float32(_LEVELS), spec.rounding, seed)
        codes = np.clip(quantized, -_LEVELS, _LEVELS).astype(np.int8)
        with np.errstate(over="ignore"):  # encode() refuses an infinite scale of any codec
            scale = np.array([float(largest) * run / _LEVELS]).astype(np.float32)
        if scale[0] == 0.0:  # too small for float32: what it would scale is zero
            codes[:] = 0
        return Encoded(scale, (seed.to_bytes(SEED_BYTES, "little"), codes.tobytes()))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: RandmaskSpec
    ) -> DecodedUpdate:
        """Decode each byte times the scale, at the index that the seed draws."""
        run = _run_length(layout, spec)
        seed = streams.read_seed(0)
        codes = to_signed(np.frombuffer(streams.read(1, -(-layout.size // run)), np.uint8), 8)
        refuse_values_without_scale(scales[0], int(np.count_nonzero(codes)))
        with np.errstate(over="ignore"):
            values = codes * scales[0]
        if not np.isfinite(values).all():
            raise NonFinite("a value times the scale is infinite")
        indices = _drawn_indices(seed, run, layout)
        if run * SPARSE_SHARE < 1:
            vector = np.zeros(layout.size, np.float32)
            vector[indices] = values
            return DenseUpdate(vector)
        return SparseUpdate(layout.size, indices, values)


def _run_length(layout: Layout, spec: RandmaskSpec) -> int:
    """Return the number of values of which one is sent."""
    inverse = 1.0 / max(spec.keep_ratio, 1e-18)
    return max(1, min(round(inverse), layout.size))


def _drawn_indices(seed: int, run: int, layout: Layout) -> NDArray[np.int64]:
    """Draw one index of each run. Shape (runs,)."""
    count = -(-layout.size // run)
    draws = splitmix64(seed, count)
    draws[:-1] %= np.uint64(run)
    draws[-1:] %= np.uint64(max(1, layout.size - run * (count - 1)))
    draws += np.arange(0, run * count, run, dtype=np.uint64)
    return draws.view(np.int64)
