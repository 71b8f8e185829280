"""Each thread's decompressor serves one container after the other, and they do not disturb each other."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.unit.compression.test_kernels import row

from keyflock_compression import DEFAULT_LIMITS, DEFAULT_SPEC, MalformedContainer, decode, encode
from keyflock_compression.container import Container, parse


def test_what_several_threads_decode_at_once_is_what_one_decodes_alone() -> None:
    rng = np.random.default_rng(5)
    sizes = (3, 300, 30_000)
    containers = []
    for size in sizes * 8:
        layout = row(size)
        delta = rng.standard_t(2, size).astype(np.float32)
        containers.append((encode(delta, layout, DEFAULT_SPEC, seed=0), layout))
    alone = [decode(data, layout).dense().tobytes() for data, layout in containers]

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda one: decode(*one).dense().tobytes(), containers * 4))

    assert together == alone * 4


def test_a_damaged_frame_leaves_no_trace_in_the_next_one() -> None:
    layout = row(300)
    good = encode(np.arange(300, dtype=np.float32), layout, DEFAULT_SPEC, seed=0)
    container = parse(good, DEFAULT_LIMITS)
    frame = container.streams[2]
    cut = (*container.streams[:2], frame[:-1], *container.streams[3:])
    damaged = Container(container.spec, container.layout, container.scales, cut).to_bytes()
    expected = decode(good, layout).dense().tobytes()

    with pytest.raises(MalformedContainer, match="does not decode"):
        decode(damaged, layout)

    assert decode(good, layout).dense().tobytes() == expected
