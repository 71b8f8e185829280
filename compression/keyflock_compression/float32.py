"""The codec without compression: it sends every value as float32, for reference and exact tests."""

import numpy as np

from keyflock_compression.arrays import Float32
from keyflock_compression.codec_interface import ContainerSizes, Encoded, StreamReader
from keyflock_compression.errors import NonFinite
from keyflock_compression.layout import Layout
from keyflock_compression.spec import Float32Spec
from keyflock_compression.update import DecodedUpdate, DenseUpdate


class Float32Codec:
    """The codec writes one stream of 4 P bytes, little-endian, and no scales."""

    def sizes(self, layout: Layout, spec: Float32Spec) -> ContainerSizes:
        """Return four bytes per value."""
        return ContainerSizes(0, (4 * layout.size,))

    def encode(self, delta: Float32, layout: Layout, spec: Float32Spec, seed: int) -> Encoded:
        """Encode the values as they are."""
        return Encoded(np.empty(0, np.float32), (delta.astype("<f4").tobytes(),))

    def decode(
        self, scales: Float32, streams: StreamReader, layout: Layout, spec: Float32Spec
    ) -> DecodedUpdate:
        """Decode the values, and check that they are finite."""
        values = np.frombuffer(streams.read(0, 4 * layout.size), "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise NonFinite("a value is NaN or infinite")
        return DenseUpdate(values)
