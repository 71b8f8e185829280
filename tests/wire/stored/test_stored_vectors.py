"""What an earlier release stored is read by every later one: optimiser states and a sealed personal model."""

import tomllib

import numpy as np
import pytest
from safetensors.numpy import load
from tests.wire.stored.write_stored_vectors import (
    ASSOCIATED_DATA,
    DELTA,
    KEY,
    VECTORS,
    WEIGHTS,
    WIDTH,
    trunk_says,
    vocabulary,
)

from keyflock_compression import decode_state, encode_state
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.personal_models.encryption import decrypt
from keyflock_server.rounds.task import OPTIMIZER_DEFAULTS, LearningRateSchedule, OptimizerName

#: The weights after a second step by the same delta, which the formulas of the papers give.
SECOND_STEP: dict[OptimizerName, list[float]] = {
    "fedavgm": [0.05, -1.9981, 0.5],
    "fedadam": [0.99001998, -1.995, 0.5],
    "fedadagrad": [0.99293894, -1.99633980, 0.5],
}


@pytest.mark.parametrize("age", ["", "_without_steps"])
@pytest.mark.parametrize("name", list(SECOND_STEP))
def test_a_stored_state_of_an_optimiser_goes_on_where_it_was(name: OptimizerName, age: str) -> None:
    state = (VECTORS / f"optimizer_{name}{age}.bin").read_bytes()

    stepped = server_step(WEIGHTS, state, DELTA, name, OPTIMIZER_DEFAULTS[name])

    np.testing.assert_allclose(stepped.weights, SECOND_STEP[name], rtol=1e-6)
    assert set(load(stepped.state)) == set(load(state)) | {"optimizer", "steps"}


def test_a_state_counts_its_steps_and_one_without_them_counts_from_the_first() -> None:
    schedule = LearningRateSchedule(name="constant", warmup_rounds=4)
    moved = []
    for age in ("", "_without_steps"):
        state = (VECTORS / f"optimizer_fedavgm{age}.bin").read_bytes()
        stepped = server_step(WEIGHTS, state, DELTA, "fedavgm", OPTIMIZER_DEFAULTS["fedavgm"], schedule)
        moved.append(float(WEIGHTS[0] - stepped.weights[0]))

    # A quarter of the rate in the first of four rounds, half in the second.
    np.testing.assert_allclose(moved, [0.95 * 0.5, 0.95 * 0.25], rtol=1e-6)


def test_the_same_step_gives_the_same_tensors_as_ever() -> None:
    for name in SECOND_STEP:
        stored = load((VECTORS / f"optimizer_{name}.bin").read_bytes())
        made = load(server_step(WEIGHTS, None, DELTA, name, OPTIMIZER_DEFAULTS[name]).state)

        assert made.keys() == stored.keys()
        for key, tensor in stored.items():
            assert (made[key].dtype, made[key].shape) == (tensor.dtype, tensor.shape)
            np.testing.assert_allclose(made[key], tensor, rtol=1e-6)


def test_a_personal_model_that_an_earlier_release_sealed_is_read_whole() -> None:
    meaning = tomllib.loads((VECTORS / "personal_model.toml").read_text())
    assert meaning["key_id"] == KEY.id

    state = decode_state(decrypt(KEY, ASSOCIATED_DATA, (VECTORS / "personal_model.bin").read_bytes()))
    model = PersonalModel.from_state(state, vocabulary(), width=WIDTH)

    assert encode_state(model.to_state()) == encode_state(state)
    assert model.gate.is_open
    assert model.head is not None
    assert (model.head.bias_ids.tolist(), model.head.bias.tolist()) == ([5, 11], [1.0, -0.5])
    strip = model.suggest(model.encode("zoo"), trunk_says(model.vocabulary, 1)[0])
    assert [word for word, _ in strip] == ["xylo", "zoo", "the"]
