"""Whatever a disk does to stored bytes: a sum comes back as it was, or is refused; a state never crashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.aggregation.optimizer_errors import CorruptedOptimizerState
from keyflock_server.aggregation.partial_aggregate import CorruptedAggregate, PartialAggregate
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.rounds.task import OPTIMIZER_DEFAULTS

SIZE = 6
WEIGHTS = np.linspace(-1.0, 1.0, SIZE, dtype=np.float32)


def aggregate() -> PartialAggregate:
    result = PartialAggregate(SIZE)
    result.sum, result.weight, result.count = WEIGHTS.copy(), 12.5, 3
    return result


STORED = aggregate().to_bytes()
STATE = server_step(WEIGHTS, None, WEIGHTS, "fedadam", OPTIMIZER_DEFAULTS["fedadam"]).state


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    result = bytearray(data)
    for _ in range(draw(st.integers(1, 8))):
        result[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(result[: draw(st.integers(0, len(result)))] if draw(st.booleans()) else result)


@given(data=st.one_of(st.binary(max_size=300), damaged(STORED)))
def test_a_damaged_partial_aggregate_is_refused_or_unharmed(data: bytes) -> None:
    try:
        back = PartialAggregate.from_bytes(data, SIZE)
    except CorruptedAggregate:
        return
    assert back.to_bytes() == STORED


@given(data=st.one_of(st.binary(max_size=300), damaged(STATE)))
def test_a_damaged_optimiser_state_is_refused_or_has_the_right_shape(data: bytes) -> None:
    try:
        result = server_step(WEIGHTS, data, WEIGHTS, "fedadam", OPTIMIZER_DEFAULTS["fedadam"])
    except CorruptedOptimizerState:
        return
    assert result.weights.shape == (SIZE,)


@given(st.integers(0, 40))
def test_an_aggregate_of_another_model_is_refused(size: int) -> None:
    if size == SIZE:
        return
    with pytest.raises(CorruptedAggregate):
        PartialAggregate.from_bytes(STORED, size)
