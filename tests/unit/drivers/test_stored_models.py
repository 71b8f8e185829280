"""What a fleet stores: a delta is applied once for all phones, and never to something else."""

import numpy as np
import pytest

from keyflock_client_sim.device.effects import PatchModel, StoreModel
from keyflock_client_sim.device.input_events import ModelStored, PatchFailed
from keyflock_client_sim.drivers import stored_models
from keyflock_client_sim.drivers.stored_models import MAX_BODIES, StoredModels
from keyflock_client_sim.testing.fake_trainers import FakeTrainer
from keyflock_compression import apply_weights_delta, content_digest, encode_weights, encode_weights_delta
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=60, embedding_size=8, hidden_size=8))
BODIES = [
    encode_weights(np.random.default_rng(seed).normal(0, 0.1, LAYOUT.size).astype(np.float32), LAYOUT)
    for seed in range(3)
]


def patch(after: int, before: int, *, base: bytes | None = None, delta: bytes | None = None) -> PatchModel:
    """From one of the models to another; models go by their number."""
    return PatchModel(
        digest=bytes([after]),
        base=base or bytes([before]),
        delta=delta or encode_weights_delta(BODIES[after], BODIES[before]),
        content_digest=content_digest(BODIES[after]),
    )


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer({})


@pytest.fixture
def models(trainer: FakeTrainer) -> StoredModels:
    stored = StoredModels(trainer)
    stored.store(StoreModel(bytes([0]), BODIES[0]))
    return stored


def test_a_patched_model_is_trained_from_and_patched_again(
    models: StoredModels, trainer: FakeTrainer
) -> None:
    assert models.patch(patch(1, 0)) == ModelStored()
    assert models.patch(patch(2, 1)) == ModelStored()

    assert trainer.stored == {bytes([0]), bytes([1]), bytes([2])}


@pytest.mark.parametrize(
    "wrong",
    [
        patch(1, 0, base=bytes([9])),
        patch(1, 2, base=bytes([0])),
        patch(1, 0, delta=b"garbage"),
        patch(1, 0, delta=encode_weights_delta(BODIES[2], BODIES[0])),
    ],
    ids=["no base", "another base", "garbage", "another result"],
)
def test_a_delta_that_does_not_fit_stores_nothing(
    models: StoredModels, trainer: FakeTrainer, wrong: PatchModel
) -> None:
    assert models.patch(wrong) == PatchFailed()

    assert trainer.stored == {bytes([0])}


def test_a_delta_that_many_phones_get_is_applied_once(
    models: StoredModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[bytes] = []

    def noted(delta: bytes, base: bytes, *, result: bytes) -> bytes:
        applied.append(delta)
        return apply_weights_delta(delta, base, result=result)

    monkeypatch.setattr(stored_models, "apply_weights_delta", noted)

    for _ in range(50):
        assert models.patch(patch(1, 0)) == ModelStored()
    assert models.patch(patch(1, 0, delta=b"garbage")) == PatchFailed()

    assert len(applied) == 2


def test_a_base_that_was_crowded_out_is_none(models: StoredModels) -> None:
    for number in range(MAX_BODIES):
        models.store(StoreModel(bytes([100 + number]), BODIES[2]))

    assert models.patch(patch(1, 0)) == PatchFailed()
