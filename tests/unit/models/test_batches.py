from collections.abc import Callable

import numpy as np

from keyflock_models.arrays import I32
from keyflock_models.training.batches import make_batches, padded_order


def test_an_order_is_filled_up_with_empty_rows_to_whole_batches() -> None:
    assert padded_order(np.array([2, 0, 1]), 2).tolist() == [2, 0, 1, -1]
    assert padded_order(np.array([2, 0]), 2).tolist() == [2, 0]
    assert padded_order(np.zeros(0, np.int64), 2).tolist() == []


def test_each_target_is_found_at_its_place_and_empty_rows_have_none() -> None:
    sequences = np.array([[1, 7, 8, 2, 0], [1, 9, 2, 0, 0]], np.int32)

    batches = make_batches(sequences, np.array([1, 0, -1, -1]), 2)

    assert batches.inputs.tolist() == [[[1, 9, 2, 0], [1, 7, 8, 2]], [[0] * 4, [0] * 4]]
    assert batches.positions.shape == (2, 6)
    assert batches.positions[0, :5].tolist() == [0, 1, 4, 5, 6]
    assert batches.targets[0, :5].tolist() == [9, 2, 7, 8, 2]
    assert batches.weights.tolist() == [[1, 1, 1, 1, 1, 0], [0] * 6]


def test_a_bos_within_a_packed_row_is_no_target() -> None:
    batches = make_batches(np.array([[1, 7, 2, 1, 8]], np.int32), np.array([0]), 1)

    found = batches.targets[batches.weights > 0]
    assert found.tolist() == [7, 2, 8]


def test_the_room_for_targets_is_one_of_four(toy_messages: Callable[..., I32]) -> None:
    rooms = {
        make_batches(toy_messages(8, length=length, seed=seed)[:, :7], np.arange(8), 8).positions.shape[1]
        for seed in range(40)
        for length in (6,)
    }

    assert rooms <= {12, 24, 36, 48}
