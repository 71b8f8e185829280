"""The aggregate and the step are federated averaging, and the adaptive optimisers are what they say."""

import numpy as np
import pytest
from numpy.typing import NDArray

from keyflock_compression import DEFAULT_SPEC, CodecSpec, DenseSpec, Float32Spec, decode, encode
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.norm_scale import MAX_NORM
from keyflock_server.aggregation.optimizer_errors import CorruptedOptimizerState
from keyflock_server.aggregation.partial_aggregate import CorruptedAggregate, PartialAggregate
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.aggregation.weighting import weight_of
from keyflock_server.rounds.task import OPTIMIZER_DEFAULTS, Aggregation, OptimizerName

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=40, embedding_size=4, hidden_size=6))
Vector = NDArray[np.float32]
#: A safetensors file with a type that NumPy does not have.
_HEADER = b'{"0000":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
IN_BFLOAT16 = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(2)


def deltas(count: int, seed: int = 0) -> list[Vector]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(LAYOUT.size).astype(np.float32) * 0.01 for _ in range(count)]


def plain_fedavg(weights: Vector, updates: list[Vector], examples: list[int]) -> NDArray[np.float64]:
    """McMahan et al. 2017, algorithm 1, as plainly as it can be written."""
    result = weights.astype(np.float64)
    total = sum(examples)
    for update, count in zip(updates, examples, strict=True):
        result -= update.astype(np.float64) * count / total
    return result


@pytest.mark.parametrize("spec", [Float32Spec(), DEFAULT_SPEC, DenseSpec()])
def test_a_round_equals_plain_federated_averaging(spec: CodecSpec) -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(LAYOUT.size).astype(np.float32)
    examples = [int(count) for count in rng.integers(1, 256, 30)]
    received = [decode(encode(delta, LAYOUT, spec, seed=3), LAYOUT) for delta in deltas(30)]

    aggregate = PartialAggregate(LAYOUT.size)
    for update, count in zip(received, examples, strict=True):
        aggregate.add(update, weight_of(count, Aggregation()))
    stepped = server_step(weights, None, aggregate.mean(), "fedavg", {"learning_rate": 1.0})

    expected = plain_fedavg(weights, [update.dense() for update in received], examples)
    np.testing.assert_allclose(stepped.weights, expected, rtol=0, atol=1e-6)


def test_merging_partial_aggregates_equals_adding_all_to_one() -> None:
    spec = Float32Spec()
    updates = [decode(encode(np.round(delta * 1000), LAYOUT, spec, seed=0), LAYOUT) for delta in deltas(9)]
    one, left, right = (PartialAggregate(LAYOUT.size) for _ in range(3))

    for index, update in enumerate(updates):
        one.add(update, 2.0)
        (left if index % 2 else right).add(update, 2.0)
    both = left.merged(right)

    np.testing.assert_array_equal(both.sum, one.sum)  # whole numbers: exact in any order
    assert (both.weight, both.count) == (one.weight, one.count) == (18.0, 9)


def test_a_partial_aggregate_comes_back_from_its_bytes_and_damage_is_found() -> None:
    aggregate = PartialAggregate(LAYOUT.size)
    aggregate.add(decode(encode(deltas(1)[0], LAYOUT, DEFAULT_SPEC, seed=0), LAYOUT), 0.1)
    data = aggregate.to_bytes()

    back = PartialAggregate.from_bytes(data, LAYOUT.size)

    np.testing.assert_array_equal(back.sum, aggregate.sum)
    assert (back.weight, back.count) == (0.1, 1)
    for position in range(0, len(data), 97):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(CorruptedAggregate):
            PartialAggregate.from_bytes(bytes(damaged), LAYOUT.size)
    with pytest.raises(CorruptedAggregate):
        PartialAggregate.from_bytes(data[:-1], LAYOUT.size)
    with pytest.raises(CorruptedAggregate):
        PartialAggregate.from_bytes(data, LAYOUT.size + 1)


@pytest.mark.parametrize(
    ("written", "forged"),
    [(b'"F64"', b'"I64"'), (b'"I64"', b'"F64"'), (b'"F32"', b'"I32"'), (b'"F32"', b'"U32"')],
)
def test_bytes_that_are_to_be_read_as_another_type_are_refused(written: bytes, forged: bytes) -> None:
    data = PartialAggregate(LAYOUT.size).to_bytes()

    with pytest.raises(CorruptedAggregate):
        PartialAggregate.from_bytes(data.replace(written, forged), LAYOUT.size)


def test_the_longest_deltas_that_are_admitted_at_the_largest_weight_do_not_overflow_the_sum() -> None:
    delta = np.zeros(LAYOUT.size, np.float32)
    delta[0] = MAX_NORM
    update = decode(encode(delta, LAYOUT, Float32Spec(), seed=0), LAYOUT)
    largest = weight_of(2**31 - 1, Aggregation(example_cap=2**31))
    aggregate = PartialAggregate(LAYOUT.size)

    for _ in range(3):
        aggregate.add(update, largest * 100_000)  # as much as the largest round can hold

    assert np.isfinite(aggregate.sum).all()
    assert aggregate.mean()[0] == pytest.approx(MAX_NORM)


def test_an_aggregate_that_was_read_back_can_be_added_to() -> None:
    update = decode(encode(np.ones(LAYOUT.size, np.float32), LAYOUT, Float32Spec(), seed=0), LAYOUT)
    back = PartialAggregate.from_bytes(PartialAggregate(LAYOUT.size).to_bytes(), LAYOUT.size)

    back.add(update, 2.0)

    np.testing.assert_array_equal(back.mean(), np.ones(LAYOUT.size, np.float32))


def test_an_empty_aggregate_has_no_mean() -> None:
    with pytest.raises(ValueError, match="empty aggregate"):
        PartialAggregate(3).mean()


@pytest.mark.parametrize("name", list(OPTIMIZER_DEFAULTS))
def test_every_optimiser_descends_along_the_delta_and_goes_on_from_its_stored_state(
    name: OptimizerName,
) -> None:
    weights, mean = np.zeros(5, np.float32), np.full(5, 0.1, np.float32)
    parameters = OPTIMIZER_DEFAULTS[name]

    first = server_step(weights, None, mean, name, parameters)
    second = server_step(first.weights, first.state, mean, name, parameters)
    fresh = server_step(first.weights, None, mean, name, parameters)

    assert (first.weights < 0).all()
    assert (second.weights < first.weights).all()
    is_stateless = name == "fedavg"
    assert np.array_equal(second.weights, fresh.weights) == is_stateless


@pytest.mark.parametrize("name", list(OPTIMIZER_DEFAULTS))
def test_parameters_that_no_phone_has_changed_stay_where_they_are(name: OptimizerName) -> None:
    start, mean = np.full(3, 0.5, np.float32), np.array([0.1, 0.0, -0.1], np.float32)

    weights, state = start, None
    for _ in range(3):
        weights, state = server_step(weights, state, mean, name, OPTIMIZER_DEFAULTS[name])

    assert weights[1] == 0.5
    assert weights[0] < 0.5 < weights[2]


def test_fedyogi_adds_the_squares_where_fedadam_averages_them() -> None:
    deltas_of_rounds = (1.0, 0.05)
    rate, b1, b2, eps = (OPTIMIZER_DEFAULTS["fedyogi"][key] for key in ("learning_rate", "b1", "b2", "eps"))
    expected, moment, second = 0.0, 0.0, 0.0

    weights, state = np.zeros(1, np.float32), None
    for step, delta in enumerate(deltas_of_rounds, start=1):
        moment = b1 * moment + (1 - b1) * delta
        second -= (1 - b2) * np.sign(second - delta**2) * delta**2
        expected -= rate * (moment / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + eps)
        mean = np.array([delta], np.float32)
        weights, state = server_step(weights, state, mean, "fedyogi", OPTIMIZER_DEFAULTS["fedyogi"])

    assert weights[0] == pytest.approx(expected, rel=1e-4)


def test_fedadam_is_adam_with_bias_correction() -> None:
    mean, parameters = np.array([0.5, -2.0], np.float32), OPTIMIZER_DEFAULTS["fedadam"]
    rate, b1, b2, eps = (parameters[key] for key in ("learning_rate", "b1", "b2", "eps"))
    expected, moment, second = np.zeros(2), np.zeros(2), np.zeros(2)

    weights, state = np.zeros(2, np.float32), None
    for step in (1, 2, 3):
        moment = b1 * moment + (1 - b1) * mean
        second = b2 * second + (1 - b2) * np.square(mean)
        expected -= rate * (moment / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + eps)
        weights, state = server_step(weights, state, mean, "fedadam", parameters)

    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_a_state_of_another_optimiser_is_refused() -> None:
    weights = np.zeros(5, np.float32)
    state = server_step(weights, None, weights + 1, "fedadam", OPTIMIZER_DEFAULTS["fedadam"]).state

    with pytest.raises(CorruptedOptimizerState):
        server_step(weights, state, weights, "fedavgm", OPTIMIZER_DEFAULTS["fedavgm"])
    with pytest.raises(CorruptedOptimizerState):
        server_step(weights, b"garbage", weights, "fedadam", OPTIMIZER_DEFAULTS["fedadam"])
    with pytest.raises(CorruptedOptimizerState):
        server_step(weights, IN_BFLOAT16, weights, "fedadam", OPTIMIZER_DEFAULTS["fedadam"])


def test_weights_are_capped_whatever_a_phone_claims() -> None:
    assert weight_of(10, Aggregation()) == 10.0
    assert weight_of(2**31 - 1, Aggregation()) == 256.0
    assert weight_of(100, Aggregation(weighting="sqrt_examples")) == 10.0
    assert weight_of(100, Aggregation(weighting="uniform")) == 1.0
