"""Whatever a delta holds: its digest is the same in every form and order, and each value is in it."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from keyflock_compression.update import DenseUpdate, SparseUpdate
from keyflock_server.aggregation.content_digest import content_digest

SIZE = 12

values = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0]), st.floats(width=32, allow_nan=False))
deltas = arrays(np.float32, SIZE, elements=values)


@given(deltas, st.permutations(range(SIZE)))
def test_every_form_and_order_has_the_same_digest(delta: NDArray[np.float32], order: Sequence[int]) -> None:
    with_zeros = np.array(order, np.int32)
    without = with_zeros[delta[with_zeros] != 0].astype(np.int64)

    forms = (DenseUpdate(delta), *(SparseUpdate(SIZE, at, delta[at]) for at in (with_zeros, without)))

    assert len({content_digest(form) for form in forms}) == 1


@given(deltas, st.integers(0, SIZE - 1), values)
def test_another_value_in_one_place_has_another_digest(
    delta: NDArray[np.float32], place: int, value: float
) -> None:
    other = delta.copy()
    other[place] = value

    digests = content_digest(DenseUpdate(delta)), content_digest(DenseUpdate(other))

    assert (digests[0] == digests[1]) == bool(other[place] == delta[place])
