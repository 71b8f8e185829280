"""Positions come back from their streams, also where the sums on the way need more than 32 bits."""

import numpy as np
import pytest
from tests.unit.compression.test_kernels import ShapesLayout

from keyflock_compression import DEFAULT_LIMITS, Float32Spec
from keyflock_compression.codec_interface import StreamReader
from keyflock_compression.positions import decode_positions, encode_positions


def decoded(indices: np.ndarray, layout: ShapesLayout) -> tuple[np.ndarray, np.ndarray]:
    """The indices in the order of the streams, and what is decoded of them."""
    positions = encode_positions(indices, layout)
    symbols = (2 * positions.gaps).astype(np.uint8).tobytes()
    streams = (positions.in_use, positions.counts, symbols)
    reader = StreamReader(Float32Spec(entropy="none"), streams, DEFAULT_LIMITS)
    return positions.indices, decode_positions(reader, layout)[1]


def test_sums_beyond_32_bits_leave_the_positions_right() -> None:
    # The last value of each of 200 columns: 200 x 128 steps of 200,000 values are more than 2**32.
    rows, columns = 128, 200_000
    layout = ShapesLayout(((3, 5), (rows, columns), (40,)))
    ends = 15 + (rows - 1) * columns + 1_000 * np.arange(200)
    indices = np.concatenate(([0, 14], ends, [layout.size - 40, layout.size - 1]))

    sent, found = decoded(indices, layout)

    assert found.tolist() == sent.tolist()
    assert sorted(found.tolist()) == indices.tolist()


@pytest.mark.parametrize(
    "shapes", [((7, 3), (3, 7), (2, 9), (5,)), ((3, 7), (4, 7), (9, 2)), ((300,),), ((0, 4),)]
)
def test_any_positions_come_back(shapes: tuple[tuple[int, ...], ...]) -> None:
    layout = ShapesLayout(shapes)

    for share in (0.0, 0.1, 0.5, 1.0):
        chosen = np.flatnonzero(np.random.default_rng(0).random(layout.size) < share)
        sent, found = decoded(chosen, layout)

        assert found.tolist() == sent.tolist()
        assert sorted(found.tolist()) == chosen.tolist()
