"""The dead-zone quantiser with a code that exploits rows: it writes and reads only what is not zero.

The quantiser is that of ``deadzone``. The values that it leaves, one in forty, sit together: in the words
that the phone typed and the units that these words changed. So the streams hold which cells (``cells.py``)
are in use, how many values each has, and per value one byte with the gap to the value before it in its cell
and a bit that is set for a magnitude above one step; then the signs as bits, and the larger magnitudes.

Decoding allocates no array of the vector's size: it returns indices and values, ready to be added.

Source: docs/decisions/0026, with what else was measured.
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
from keyflock_compression.deadzone import MAX_QUANTIZED, choose_step, quantize_delta
from keyflock_compression.errors import MalformedContainer, NonFinite
from keyflock_compression.layout import Layout
from keyflock_compression.positions import decode_positions, encode_positions, in_use_bytes, read_bits
from keyflock_compression.spec import AdaptiveStepSpec
from keyflock_compression.update import DecodedUpdate, update_of

#: A magnitude in the fifth stream is its byte plus two; this byte says that the sixth stream holds it.
_ESCAPE: Final = 255
_MIN_LARGE: Final = 2
#: No encoder writes a longer step; the largest magnitude times a shorter one is finite.
_MAX_SAFE_STEP: Final = np.finfo(np.float32).max / (2 * MAX_QUANTIZED)
#: The eight signs in each byte: a look-up is three times as fast as unpacking bits.
_SIGNS: Final = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little"), -1.0, 1.0
).astype(np.float32)


class DeadzoneRowsCodec:
    """The codec writes one scale, the step, and six streams.

    The streams are the cells in use, their counts, gaps, signs, magnitudes, and outliers.


    Guarantees:
        The decoded values equal those of ``deadzone``, bit for bit. Decoding takes time in proportion to the
        values that are not zero, and to the cells' bits.
    Edge cases:
        zero vector -> step 0, no cell in use
    """

    def sizes(self, layout: Layout, spec: AdaptiveStepSpec) -> ContainerSizes:
        """Return a bit per cell; the other sizes depend on the delta."""
        return ContainerSizes(1, (in_use_bytes(layout), None, None, None, None, None))

    def encode(self, delta: Float32, layout: Layout, spec: AdaptiveStepSpec, seed: int) -> Encoded:
        """Encode the delta over its step, as gaps and magnitudes."""
        step = choose_step(delta, spec, seed)
        quantized = np.zeros_like(delta) if step == 0.0 else quantize_delta(delta, step, spec, seed)
        positions = encode_positions(np.flatnonzero(quantized != 0), layout)
        values = quantized[positions.indices].astype(np.int64)
        magnitudes = np.abs(values)
        is_large = magnitudes >= _MIN_LARGE
        large = magnitudes[is_large] - _MIN_LARGE
        streams = (
            positions.in_use,
            positions.counts,
            (2 * positions.gaps + is_large).astype(np.uint8).tobytes(),
            np.packbits(values < 0, bitorder="little").tobytes(),
            np.minimum(large, _ESCAPE).astype(np.uint8).tobytes(),
            (large[large >= _ESCAPE] + _MIN_LARGE).astype("<i4").tobytes(),
        )
        return Encoded(np.array([step], np.float32), streams)

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: AdaptiveStepSpec
    ) -> DecodedUpdate:
        """Decode indices from gaps, and values from signs and magnitudes."""
        symbols, indices = decode_positions(streams, layout)
        total = symbols.size
        refuse_values_without_scale(scales[0], total)
        signs = read_bits(streams, 3, total)
        values = (_SIGNS * scales[0]).take(signs, axis=0).reshape(-1)[:total]
        (large,) = (symbols & 1).view(bool).nonzero()
        magnitudes = _magnitudes(streams, large.size)
        if scales[0] > _MAX_SAFE_STEP:
            with np.errstate(over="ignore"):
                largest = magnitudes.max(initial=0) * scales[0]
            if not np.isfinite(largest):
                raise NonFinite("a value times the step is infinite")
        magnitudes *= values[large]
        values[large] = magnitudes
        return update_of(layout.size, indices, values)


def _magnitudes(streams: StreamReader, count: int) -> Float32:
    """Read magnitudes of at least two steps. Shape (count,), float32."""
    stream = streams.read(4, count)
    data = np.frombuffer(stream, np.uint8)
    magnitudes = data.astype(np.float32)
    magnitudes += _MIN_LARGE
    outlier_count = stream.count(_ESCAPE)
    outliers = np.frombuffer(streams.read(5, 4 * outlier_count), "<i4")
    if outlier_count:
        if outliers.min() < _ESCAPE + _MIN_LARGE or outliers.max() > MAX_QUANTIZED:
            raise MalformedContainer("an outlier is one that its byte could have held, or is beyond 2**23")
        magnitudes[data == _ESCAPE] = outliers
    return magnitudes
