import pytest

from keyflock_models.network.config import SIZES, ModelConfig


def test_the_full_model_has_the_published_number_of_parameters() -> None:
    assert ModelConfig.named("full") == ModelConfig(10_000, 96, 670)
    assert ModelConfig().parameter_count == 1_422_250


def test_a_configuration_survives_its_dictionary() -> None:
    for config in SIZES.values():
        assert ModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"vocabulary_size": 4, "embedding_size": 8, "hidden_size": 8}, "vocabulary_size is 4"),
        ({"vocabulary_size": 64, "embedding_size": 0, "hidden_size": 8}, "embedding_size is 0"),
        ({"vocabulary_size": 64, "embedding_size": 8, "hidden_size": "8"}, "hidden_size is '8'"),
        ({"vocabulary_size": 64, "embedding_size": 8, "hidden_size": True}, "hidden_size is True"),
        ({"vocabulary_size": 64, "embedding_size": 8, "hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({"vocabulary_size": 64, "embedding_size": 8}, "fields: hidden_size"),
        ({"vocabulary_size": 64, "embedding_size": 8, "hidden_size": 8, "depth": 2}, "fields: depth"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ModelConfig.from_dict(values)


def test_an_unknown_size_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="full, medium, small, tiny"):
        ModelConfig.named("huge")
