"""Whatever a phone puts in a head's place is a personal model, or is refused: nothing else ever happens."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
from tests.http.personal.conftest import CONFIG, personal, vocabulary

from keyflock_compression import decode_state, encode_state
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_server.personal_models.population_model_info import PopulationModelInfo
from keyflock_server.protocol.problems import ApiError, ProblemCode

Path = tuple[str, ...]

TRUNK = np.full(12, 1 / 12, np.float32)
VALUES: tuple[object, ...] = (
    None,
    True,
    0,
    1,
    -1,
    2**63,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "two words",
    "x" * 1_000,
    b"",
    b"x",
    [],
    [1],
    [None],
    ["x", "x"],
    [[1]],
    {},
    {"a": 1},
    np.zeros(0, np.float32),
    np.array([1, 2], np.float32),
    np.array([1, 2], np.int32),
    np.array([1, 2], np.float16),
    np.array(1, np.int32),
    np.array(1.0, np.float16),
    np.full(3, np.nan, np.float32),
    np.full(3, np.inf, np.float32),
    np.full(3, -1.0, np.float32),
    np.zeros((0, 2), np.int32),
    np.zeros((0, 3), np.int32),
    np.zeros((2, 0), np.int32),
    np.zeros((0, 0), np.float16),
    np.zeros((4, 0), np.float16),
    np.full((7, 4), np.nan, np.float32),
    np.full((7, 4), 1e9, np.float32),
)


def whole() -> dict[str, object]:
    """A personal model with all its parts."""
    rng = np.random.default_rng(0)
    model = personal("zoo tea xylophone")
    down, up = rng.normal(size=(4, 2)), rng.normal(size=(2, 4))
    model.head = PersonalHead(
        "f" * 32,
        down.astype(np.float32),
        up.astype(np.float32),
        np.array([5], np.int32),
        np.array([1.0], np.float32),
    )
    return decode_state(encode_state(model.to_state()))


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield (*path, key)
            yield from paths(one, (*path, key))


def changed(state: dict[str, object], path: Path, value: object) -> dict[str, object]:
    """The state with another value there; without it, if that is ...."""
    result = copy.deepcopy(state)
    part: dict[str, object] = result
    for key in path[:-1]:
        part = part[key]  # type: ignore[assignment]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return result


def read(language: PopulationModelInfo, data: bytes) -> PersonalModel | None:
    """None where it is refused, as it should be; any other failure is the test's."""
    try:
        return language.decode_personal_model(data)
    except ApiError as refused:
        if refused.code is not ProblemCode.MALFORMED_HEAD:
            raise
        return None


@pytest.mark.parametrize("path", [pytest.param(path, id=".".join(path)) for path in paths(whole())])
def test_any_value_in_any_place_is_read_or_refused_and_what_is_read_can_be_used(path: Path) -> None:
    language, index = PopulationModelInfo(vocabulary(), CONFIG), VocabularyIndex.from_vocabulary(vocabulary())
    for value in (..., *VALUES):
        data = encode_state(changed(whole(), path, value))
        model = read(language, data)
        if model is None:
            continue
        profile = ServingProfile.from_model(model, index)
        for context in ([], [5], [5, 12]):
            profile.history.predict_sparse(*[1, 1, *context][-2:])
            for is_personal in (False, True):
                found = model.suggest(context, TRUNK, is_personal=is_personal)
                assert all(np.isfinite(share) for _, share in found)
