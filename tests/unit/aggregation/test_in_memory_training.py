"""A task's rounds without a server around them: real bytes in, the next version out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from keyflock_compression import DenseSpec, Float32Spec, WrongSpec, decode_weights, encode, nmse
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.in_memory_training import InMemoryTraining

LAYOUT = ParamLayout.for_config(ModelConfig.named("tiny"))
EXACT = Float32Spec(entropy="none")
TASK = """
[task]
name = "bare"
population = "en"
[round]
goal = 4
[codec]
codec = "float32"
entropy = "none"
[optimizer]
name = "{optimizer}"
learning_rate = {rate}
"""


def rounds(
    optimizer: str = "fedavg", rate: float = 1.0, reference: NDArray[np.float32] | None = None
) -> InMemoryTraining:
    return InMemoryTraining(TASK.format(optimizer=optimizer, rate=rate), START, LAYOUT, reference)


def vectors(count: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.0, 0.01, LAYOUT.size).astype(np.float32) for _ in range(count)]


START = vectors(1, seed=0)[0]


def test_two_rounds_of_fedavg_are_two_weighted_means_taken_away() -> None:
    bare = rounds()
    expected = START.astype(np.float64)

    for seed in (1, 2):
        deltas, examples = vectors(5, seed), (3, 10, 1, 256, 40)
        for delta, count in zip(deltas, examples, strict=True):
            assert bare.add_report(encode(delta, LAYOUT, EXACT, seed=0), count)
        bare.close_round()
        expected -= sum(n * d.astype(np.float64) for n, d in zip(examples, deltas, strict=True)) / sum(
            examples
        )

    np.testing.assert_allclose(bare.weights, expected, atol=1e-6)
    assert bare.weights is not START


def test_the_optimizers_state_goes_on_from_round_to_round() -> None:
    bare = rounds("fedavgm", rate=0.5)
    delta = vectors(1, seed=3)[0]

    for _ in range(2):
        bare.add_report(encode(delta, LAYOUT, EXACT, seed=0), 1)
        bare.close_round()

    # Momentum 0.9: the second step is 1.9 times the first.
    np.testing.assert_allclose(bare.weights, START - 0.5 * (1.0 + 1.9) * delta, atol=1e-6)


def test_a_delta_far_longer_than_the_reference_is_left_out() -> None:
    bare, twin = (rounds(reference=vectors(1, seed=9)[0]) for _ in range(2))
    usual = vectors(8, seed=4)
    for delta in usual:
        for one in (bare, twin):
            one.add_report(encode(delta, LAYOUT, EXACT, seed=0), 1)

    was_taken = bare.add_report(encode(150 * usual[0], LAYOUT, EXACT, seed=0), 1)
    bare.close_round()
    twin.close_round()

    assert not was_taken
    np.testing.assert_array_equal(bare.weights, twin.weights)


def test_a_report_of_another_codec_is_no_report_of_this_task() -> None:
    with pytest.raises(WrongSpec):
        rounds().add_report(encode(START, LAYOUT, DenseSpec(), seed=0), 1)


def test_phones_download_the_newest_version_in_int8() -> None:
    bare = rounds()
    bare.add_report(encode(vectors(1, seed=5)[0], LAYOUT, EXACT, seed=0), 1)
    bare.close_round()

    assert 0.0 < nmse(bare.weights, decode_weights(bare.download(), LAYOUT)) < 1e-3


def test_a_round_that_nobody_reported_to_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no mean"):
        rounds().close_round()
