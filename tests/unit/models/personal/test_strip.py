"""What stands on the strip: some of the network's, some of the blend's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_models.arrays import F32
from keyflock_models.personal.strip import fill_strip, network_slots, ranks_on_strip

EVERY = np.ones(8, np.bool_)
#: The network's order: 0 1 2 3 ...; the blend's: 7 6 5 4 3 ...
NETWORK = np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05], np.float32)
BLEND = np.array([0.01, 0.02, 0.03, 0.04, 0.1, 0.2, 0.25, 0.35], np.float32)


@pytest.mark.parametrize(
    ("places", "count", "expected"),
    [
        (0, 3, [2, 1, 0]),
        (1, 3, [7, 1, 0]),
        (2, 3, [7, 6, 0]),
        (3, 3, [7, 6, 5]),
        (2, 6, [7, 6, 0, 5, 4, 3]),
        (1, 1, [0]),
        (2, 1, [7]),
        (2, 2, [7, 0]),
        (1, 20, [7, 1, 0, 6, 5, 4, 3, 2]),
    ],
)
def test_the_network_keeps_what_the_blend_has_not_proved_to_fill(
    places: int, count: int, expected: list[int]
) -> None:
    assert fill_strip(NETWORK, BLEND, EVERY, places, count).tolist() == expected


def test_words_that_may_not_be_shown_leave_their_place_to_the_next() -> None:
    is_shown = np.array([False, True, True, True, True, True, True, False])

    assert fill_strip(NETWORK, BLEND, is_shown, 2, 3).tolist() == [6, 5, 1]


def test_the_blend_may_know_words_that_the_network_does_not() -> None:
    assert fill_strip(NETWORK[:6], BLEND, EVERY, 1, 3).tolist() == [7, 1, 0]


def test_fewer_words_than_places_are_all_shown() -> None:
    is_shown = np.array([True, False, False, False, False, False, False, True])

    assert fill_strip(NETWORK, BLEND, is_shown, 1, 3).tolist() == [7, 0]
    assert not len(fill_strip(NETWORK, BLEND, ~EVERY, 2, 3))


@pytest.mark.parametrize("places", [0, 1, 2, 3])
def test_the_more_places_the_blend_has_the_fewer_the_network_keeps(places: int) -> None:
    slots = [network_slots(places, count) for count in range(1, 12)]

    assert slots == sorted(slots)
    assert slots[2:] == [3 - places] * 9


PROBABILITIES = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4]), min_size=8, max_size=8)


@given(network=PROBABILITIES, blend=PROBABILITIES, places=st.sampled_from([1, 2]), known=st.integers(5, 8))
def test_a_rank_is_the_place_on_the_strip(
    network: list[float], blend: list[float], places: int, known: int
) -> None:
    rows: tuple[F32, F32] = (np.array(network[:known], np.float32), np.array(blend, np.float32))
    order = fill_strip(*rows, EVERY, places, 8).tolist()
    targets = np.arange(8, dtype=np.int32)

    ranks = ranks_on_strip(np.tile(rows[0], (8, 1)), np.tile(rows[1], (8, 1)), EVERY, targets, places)

    assert sorted(order) == targets.tolist()
    assert [order[rank] for rank in ranks.tolist()] == targets.tolist()
