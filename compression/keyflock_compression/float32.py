"""No compression: every value as float32, little-endian. For reference, debugging and exact tests."""

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.errors import NonFinite
from keyflock_compression.family import Encoded, Sizes, StreamReader
from keyflock_compression.layout import Layout
from keyflock_compression.spec import CodecSpec
from keyflock_compression.update import DecodedUpdate, DenseUpdate


class Float32Codec:
    """One stream of 4 P bytes, no scales."""

    def sizes(self, layout: Layout, spec: CodecSpec) -> Sizes:
        """Four bytes a value."""
        return Sizes(0, (4 * layout.size,))

    def encode(self, delta: Float32, layout: Layout, spec: CodecSpec, seed: int) -> Encoded:
        """The values themselves."""
        return Encoded(np.empty(0, np.float32), (delta.astype("<f4").tobytes(),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: CodecSpec
    ) -> DecodedUpdate:
        """The values themselves, checked to be finite."""
        values = np.frombuffer(streams.read(0, 4 * layout.size), "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise NonFinite("a value is NaN or infinite")
        return DenseUpdate(values)
