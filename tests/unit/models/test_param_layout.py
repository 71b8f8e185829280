import jax
import numpy as np
import pytest
from flax import nnx

from keyflock_models.arrays import F32
from keyflock_models.network.cifg import CifgLanguageModel, init_params
from keyflock_models.network.config import SIZES, ModelConfig
from keyflock_models.network.layout import ParamLayout


@pytest.mark.parametrize("size", sorted(SIZES))
def test_the_layout_names_the_networks_parameters(size: str) -> None:
    config = ModelConfig.named(size)
    layout = ParamLayout.for_config(config)

    module = nnx.eval_shape(lambda: CifgLanguageModel(config, rngs=nnx.Rngs(params=jax.random.key(0))))
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))

    assert {name: tensor.shape for name, tensor in params.items()} == dict(
        zip(layout.names, layout.shapes, strict=True)
    )
    assert layout.size == config.parameter_count


def test_tensors_lie_one_behind_the_other() -> None:
    layout = ParamLayout(names=("a", "b", "c"), shapes=((2, 3), (), (4,)))

    assert layout.offsets == (0, 6, 7)
    assert layout.size == 11


def test_a_vector_of_parameters_comes_back_to_the_bit(tiny: ModelConfig) -> None:
    layout = ParamLayout.for_config(tiny)
    params = init_params(tiny, jax.random.key(3))

    again = layout.unflatten(layout.flatten(params))

    assert all(np.array_equal(again[name], params[name]) for name in layout.names)


def test_unflattened_tensors_are_views_of_the_vector(tiny: ModelConfig, toy_weights: F32) -> None:
    vector = toy_weights.copy()

    ParamLayout.for_config(tiny).unflatten(vector)["output_bias"][:] = 5

    assert (vector == 5).sum() == tiny.vocabulary_size


def test_the_digest_is_names_shapes_and_order() -> None:
    layout = ParamLayout(names=("a", "b"), shapes=((2,), (2,)))

    assert len(layout.digest) == 16
    assert layout.digest == ParamLayout(names=("a", "b"), shapes=((2,), (2,))).digest
    assert layout.digest != ParamLayout(names=("b", "a"), shapes=((2,), (2,))).digest
    assert layout.digest != ParamLayout(names=("a", "b"), shapes=((2,), (1, 2))).digest


def test_the_digest_of_the_full_model_never_changes() -> None:
    assert ParamLayout.for_config(ModelConfig()).digest.hex() == "a4cbed7287e5263852ab0b5aed8c1d74"


def test_tensors_that_do_not_fit_the_layout_are_refused_by_name() -> None:
    layout = ParamLayout(names=("a",), shapes=((2,),))

    with pytest.raises(ValueError, match="'b'"):
        layout.flatten({"a": np.zeros(2), "b": np.zeros(2)})
    with pytest.raises(ValueError, match=r"'a' has shape \(3,\)"):
        layout.flatten({"a": np.zeros(3)})
    with pytest.raises(ValueError, match="layout of 2 numbers"):
        layout.unflatten(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="no name twice"):
        ParamLayout(names=("a", "a"), shapes=((2,), (2,)))
