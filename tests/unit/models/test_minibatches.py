from collections.abc import Callable

import numpy as np
import pytest

from keyflock_models.arrays import I32
from keyflock_models.text.special_tokens import BOS
from keyflock_models.training.minibatches import Minibatches, pack


def messages_in(rows: I32) -> list[tuple[int, ...]]:
    """All messages of rows, whatever row they are in."""
    found: list[list[int]] = []
    for row in rows.tolist():
        for token in row:
            if token == BOS:
                found.append([])
            if token:
                found[-1].append(token)
    return sorted(tuple(message) for message in found)


def test_packing_keeps_every_message_whole_and_fills_the_rows(toy_messages: Callable[..., I32]) -> None:
    rows = toy_messages(500, length=9)

    packed = pack(rows)

    assert messages_in(packed) == messages_in(rows)
    assert (rows != 0).mean() < 0.7
    assert (packed != 0).mean() > 0.9
    assert packed.shape[1] == 10


def test_packing_nothing_gives_nothing() -> None:
    assert pack(np.zeros((0, 5), np.int32)).shape == (0, 5)


def test_an_epoch_shows_each_row_once_in_another_order(toy_messages: Callable[..., I32]) -> None:
    rows = np.unique(toy_messages(60, length=9), axis=0)[:48]
    feed = Minibatches(rows, batch_size=8, seed=0)

    first, second = (np.concatenate([feed.batch(epoch * 6 + i) for i in range(6)]) for epoch in (0, 1))

    assert feed.steps_per_epoch == 6
    assert not np.array_equal(first, second)
    assert np.array_equal(np.unique(first, axis=0), rows)
    assert np.array_equal(np.unique(second, axis=0), rows)


def test_a_batch_is_found_by_its_number_alone(toy_messages: Callable[..., I32]) -> None:
    rows = toy_messages(40)
    in_turn = Minibatches(rows, batch_size=8, seed=3)
    batches = [in_turn.batch(step) for step in range(12)]

    assert np.array_equal(Minibatches(rows, batch_size=8, seed=3).batch(11), batches[11])
    assert np.array_equal(in_turn.batch(2), batches[2])


@pytest.mark.parametrize("batch_size", [0, 41])
def test_too_few_sequences_for_a_batch_are_refused(toy_messages: Callable[..., I32], batch_size: int) -> None:
    with pytest.raises(ValueError, match="do not fill a batch"):
        Minibatches(toy_messages(40), batch_size=batch_size, seed=0)
