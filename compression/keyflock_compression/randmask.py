"""Values that the seed draws: the phone sends them without saying which, and the server draws the same.

The vector is cut into runs of S values, and one value of each run is drawn, so that whoever decodes touches
only what was sent. Each value had the same chance, and is sent S times as large: the mean over seeds is the
delta. One delta's error is about S - 1 times its energy, and only the mean of many makes it small; its norm
is about sqrt(S) times what it was, alike for all phones.

Source: Konecny et al. 2016, arXiv:1610.05492, "random mask"; drawing one of each run rather than each by
itself fixes the number, docs/decisions/0029.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression.arrays import Float32
from keyflock_compression.errors import NonFinite
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.packing import as_signed
from keyflock_compression.rounding import to_whole
from keyflock_compression.spec import CodecSpec
from keyflock_compression.splitmix import SEED_BYTES, numbers
from keyflock_compression.update import SPARSE_SHARE, DecodedUpdate, DenseUpdate, SparseUpdate

_LEVELS: Final = 127


class RandmaskCodec:
    """One scale; two streams: the seed, and one signed byte a run.

    Guarantees:
        Over seeds, with stochastic rounding, a value's mean is the value, up to float32 rounding. What is
        sent is within half a scale (nearest) or one scale (stochastic) of the value times its run's length.
    Edge cases:
        what is drawn is all zero -> scale 0
    """

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """A byte a run."""
        return Sizes(1, (SEED_BYTES, -(-layout.size // _run(layout, spec))))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """What the seed draws, as int8."""
        run = _run(layout, spec)
        drawn = delta[_drawn(seed, run, layout)]
        # The last run may be shorter, and a value of it was likelier to be drawn.
        weights = np.full(drawn.size, run, np.float32)
        weights[-1:] = layout.size - run * (drawn.size - 1)
        # Relative to the largest value, so that nothing leaves the range of float32.
        most = np.abs(drawn).max(initial=np.float32(0))
        relative = drawn / (most or np.float32(1)) * (weights / np.float32(run))
        whole = to_whole(relative * np.float32(_LEVELS), spec.rounding, seed)
        codes = np.clip(whole, -_LEVELS, _LEVELS).astype(np.int8)
        with np.errstate(over="ignore"):  # what is infinite is refused with the rest
            scale = np.array([float(most) * run / _LEVELS]).astype(np.float32)
        return Encoded(scale, (seed.to_bytes(SEED_BYTES, "little"), codes.tobytes()))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """Each byte times the scale, where the seed draws it."""
        run = _run(layout, spec)
        seed = streams.read_seed(0)
        codes = as_signed(np.frombuffer(streams.read(1, -(-layout.size // run)), np.uint8), 8)
        with np.errstate(over="ignore"):
            values = codes * scales[0]
        if not np.isfinite(values).all():
            raise NonFinite("a value times the scale is infinite")
        indices = _drawn(seed, run, layout)
        if run * SPARSE_SHARE < 1:
            vector = np.zeros(layout.size, np.float32)
            vector[indices] = values
            return DenseUpdate(vector)
        return SparseUpdate(layout.size, indices, values)


def _run(layout: Layout, spec: CodecSpec) -> int:
    """Values of which one is sent."""
    assert spec.keep_ratio is not None  # noqa: S101 - CodecSpec holds it for randmask
    inverse = 1.0 / max(spec.keep_ratio, 1e-18)
    return max(1, min(round(inverse), layout.size))


def _drawn(seed: int, run: int, layout: Layout) -> NDArray[np.int64]:
    """One index of each run. Shape (runs,)."""
    count = -(-layout.size // run)
    draws = numbers(seed, count)
    draws[:-1] %= np.uint64(run)
    draws[-1:] %= np.uint64(max(1, layout.size - run * (count - 1)))
    draws += np.arange(0, run * count, run, dtype=np.uint64)
    return draws.view(np.int64)
