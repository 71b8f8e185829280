"""The average of versions, against the sum that defines it."""

import numpy as np
import pytest

from keyflock_server.releases.ema import CorruptedAverage, WeightAverage

VERSIONS = np.random.default_rng(5).normal(size=(20, 7)).astype(np.float32)


def averaged(decay: float) -> WeightAverage:
    average = WeightAverage.of(VERSIONS[0], decay)
    for weights in VERSIONS[1:]:
        average = average.after(weights, decay)
    return average


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_recurrence_is_the_corrected_sum(decay: float) -> None:
    worth = decay ** np.arange(len(VERSIONS))[::-1]

    expected = (worth[:, None] * VERSIONS.astype(np.float64)).sum(axis=0) / worth.sum()

    np.testing.assert_allclose(averaged(decay).mean, expected, rtol=0, atol=1e-6)
    assert averaged(decay).correction == pytest.approx(1 - decay ** len(VERSIONS))


def test_three_versions_by_hand() -> None:
    one, two, three = (np.array([value], np.float32) for value in (1.0, 2.0, 4.0))

    average = WeightAverage.of(one, 0.5).after(two, 0.5).after(three, 0.5)

    # The sum of 1/4, 2/2 and 4, over that of 1/4, 1/2 and 1.
    assert average.mean[0] == pytest.approx(3.0)


def test_the_average_of_one_version_is_that_version() -> None:
    np.testing.assert_array_equal(WeightAverage.of(VERSIONS[0], 0.99).mean, VERSIONS[0])


def test_an_average_is_not_changed_by_what_comes_after() -> None:
    first = WeightAverage.of(VERSIONS[0], 0.9)

    first.after(VERSIONS[1], 0.9)

    np.testing.assert_array_equal(first.mean, VERSIONS[0])


def test_bytes_bring_back_the_same_bits() -> None:
    average = averaged(0.9)

    back = WeightAverage.from_bytes(average.to_bytes(), 7)

    np.testing.assert_array_equal(back.mean, average.mean)
    assert back.correction == average.correction


@pytest.mark.parametrize("damage", ["short", "flipped", "another size"])
def test_damaged_bytes_are_refused(damage: str) -> None:
    data = bytearray(averaged(0.9).to_bytes())
    size = 8 if damage == "another size" else 7
    if damage == "flipped":
        data[-1] ^= 1

    with pytest.raises(CorruptedAverage):
        WeightAverage.from_bytes(bytes(data[:-3] if damage == "short" else data), size)
