"""One step of each optimiser, against numbers worked out by hand from the papers' formulas."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from keyflock_server.aggregation.optimizer_errors import CorruptedOptimizerState, OptimizerMismatch
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.rounds.task import OPTIMIZER_DEFAULTS, LearningRateSchedule, OptimizerName

DELTA = np.array([0.5, -0.001, 0.0], np.float32)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("fedavg", [-0.5, 0.001, 0.0], [-1.0, 0.002, 0.0]),
        ("fedavgm", [-0.5, 0.001, 0.0], [-1.45, 0.0029, 0.0]),
        # Reddi et al., algorithm 2: v starts at eps squared; the step is 0.01 * delta / (root of v + eps).
        ("fedadagrad", [-0.0099800, 0.0041421, 0.0], [-0.0170411, 0.0078024, 0.0]),
        # With bias correction each step is about 0.01 * delta / (|delta| + eps) while the delta stays.
        ("fedadam", [-0.0099800, 0.0050000, 0.0], [-0.0199601, 0.0100000, 0.0]),
    ],
)
def test_two_steps_are_those_of_the_paper(
    name: OptimizerName, first: list[float], second: list[float]
) -> None:
    start = np.zeros(3, np.float32)

    one = server_step(start, None, DELTA, name, OPTIMIZER_DEFAULTS[name])
    two = server_step(one.weights, one.state, DELTA, name, OPTIMIZER_DEFAULTS[name])

    np.testing.assert_allclose(one.weights, first, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(two.weights, second, rtol=1e-4, atol=1e-8)


def test_amsgrad_never_forgets_the_largest_second_moment() -> None:
    start = np.zeros(1, np.float32)
    parameters = {"learning_rate": 1.0, "b1": 0.0, "b2": 0.5, "eps": 1e-10}
    large, small = np.array([10.0], np.float32), np.array([1.0], np.float32)

    one = server_step(start, None, large, "fedamsgrad", parameters)
    two = server_step(one.weights, one.state, small, "fedamsgrad", parameters)

    # Corrected, the second moment is 100, then (0.5 * 50 + 0.5) / 0.75 = 34: 100 stays.
    np.testing.assert_allclose([one.weights[0], two.weights[0]], [-1.0, -1.1], rtol=1e-5)


@pytest.mark.parametrize("name", list(OPTIMIZER_DEFAULTS))
def test_what_nobody_has_typed_does_not_move(name: OptimizerName) -> None:
    weights, state = np.ones(3, np.float32), None

    for _ in range(3):
        weights, state = server_step(weights, state, DELTA, name, OPTIMIZER_DEFAULTS[name])

    assert weights[2] == 1.0


def test_weight_decay_takes_its_share_of_every_weight() -> None:
    parameters = {"learning_rate": 0.5, "weight_decay": 0.1}

    stepped = server_step(np.array([1.0, 2.0, 4.0], np.float32), None, DELTA, "fedavg", parameters)

    np.testing.assert_allclose(stepped.weights, [0.7, 1.9005, 3.8], rtol=1e-6)


def test_the_rate_follows_its_schedule_step_by_step() -> None:
    weights, state, moved = np.zeros(1, np.float32), None, []
    schedule = LearningRateSchedule(name="exponential", warmup_rounds=2, decay_rounds=1, decay_ratio=0.5)

    for _ in range(5):
        before = weights
        weights, state = server_step(
            before, state, np.ones(1, np.float32), "fedavg", {"learning_rate": 1.0}, schedule
        )
        moved.append(float(before[0] - weights[0]))

    assert moved == [0.5, 1.0, 1.0, 0.5, 0.25]


def test_a_state_survives_other_parameters_and_goes_on_with_its_steps() -> None:
    defaults = OPTIMIZER_DEFAULTS["fedadam"]
    one = server_step(np.zeros(3, np.float32), None, DELTA, "fedadam", defaults)
    cosine = LearningRateSchedule(name="cosine", decay_rounds=1)

    two = server_step(
        one.weights, one.state, DELTA, "fedadam", defaults | {"b1": 0.5, "learning_rate": 9.0}, cosine
    )

    # The second step is the cosine's last, with a rate of nothing.
    np.testing.assert_array_equal(two.weights, one.weights)


def test_a_state_does_not_pass_for_another_optimisers_though_its_shape_would() -> None:
    state = server_step(np.zeros(3, np.float32), None, DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"]).state

    with pytest.raises(OptimizerMismatch, match="'fedadam', and means nothing to fedyogi; create a new task"):
        server_step(np.zeros(3, np.float32), state, DELTA, "fedyogi", OPTIMIZER_DEFAULTS["fedyogi"])


def state_with(**tensors: NDArray[Any] | None) -> bytes:
    """The state of fedadam after a step, with other tensors; None leaves one out."""
    state = server_step(np.zeros(3, np.float32), None, DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"]).state
    changed = load(state) | tensors
    return save({name: tensor for name, tensor in changed.items() if tensor is not None})


@pytest.mark.parametrize(
    "tensors",
    [
        {"0001": np.zeros(4, np.float32)},
        {"0002": np.zeros((3, 1), np.float32)},
        {"0001": np.zeros(3, np.float64)},
        {"0002": np.zeros(3, np.float16)},
        {"0000": np.array(1, np.int64)},
        {"0000": np.array([1], np.int32)},
        {"0002": None},
        {"0003": np.zeros(3, np.float32)},
    ],
)
def test_a_state_of_another_shape_or_type_is_refused(tensors: dict[str, NDArray[Any] | None]) -> None:
    with pytest.raises(CorruptedOptimizerState, match="another optimiser, or of another model"):
        server_step(
            np.zeros(3, np.float32), state_with(**tensors), DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"]
        )


@pytest.mark.parametrize(
    "steps",
    [
        np.array([-1], np.int64),
        np.array([1], np.int32),
        np.array([1.0], np.float64),
        np.array(1, np.int64),
        np.array([1, 1], np.int64),
        np.zeros(0, np.int64),
    ],
)
def test_a_number_of_steps_is_one_whole_number(steps: NDArray[Any]) -> None:
    with pytest.raises(CorruptedOptimizerState, match="how many steps were made"):
        server_step(
            np.zeros(3, np.float32), state_with(steps=steps), DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"]
        )


def test_a_state_without_a_step_is_a_state() -> None:
    state = state_with(steps=np.zeros(1, np.int64))

    stepped = server_step(np.zeros(3, np.float32), state, DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"])

    assert load(stepped.state)["steps"].tolist() == [1]


def test_a_name_that_is_no_text_is_that_of_another_optimiser() -> None:
    state = state_with(optimizer=np.array([0xFF], np.uint8))

    with pytest.raises(OptimizerMismatch):
        server_step(np.zeros(3, np.float32), state, DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"])


#: A safetensors file with a type that NumPy does not have.
HEADER = b'{"0000":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'


@pytest.mark.parametrize("data", [b"", b"garbage", len(HEADER).to_bytes(8, "little") + HEADER + bytes(2)])
def test_bytes_that_are_no_tensors_are_no_state(data: bytes) -> None:
    with pytest.raises(CorruptedOptimizerState, match="not an optimiser's state"):
        server_step(np.zeros(3, np.float32), data, DELTA, "fedadam", OPTIMIZER_DEFAULTS["fedadam"])
