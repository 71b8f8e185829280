"""A personal model whose trunk changes: what happens to its head, and what the blend makes of it."""

from dataclasses import replace

import numpy as np
import pytest

from keyflock_models.arrays import F32
from keyflock_models.personal.blend import HEAD, TRUNK
from keyflock_models.personal.head import PersonalHead, WrongSpaceError
from keyflock_models.personal.head_mapping import HeadMap
from keyflock_models.personal.head_trust import HeadPolicy
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.vocabulary import Vocabulary

WIDTH = 6
OLD, NEW, NEWER = "a" * 32, "b" * 32, "c" * 32
EYE = np.eye(WIDTH, dtype=np.float32)
TO_NEW = HeadMap(OLD, NEW, 2 * EYE, EYE)


def head() -> PersonalHead:
    down = np.ones((WIDTH, 2), np.float32)
    return PersonalHead(OLD, down, down.T, np.array([5], np.int32), np.array([1.0], np.float32))


@pytest.fixture
def model(words: Vocabulary) -> PersonalModel:
    found = PersonalModel.new(words)
    found.weights.responsibilities[:, HEAD] = 30.0
    found.set_head(head())
    return found


def probabilities(vocabulary: Vocabulary, rows: int) -> F32:
    shares = np.exp(vocabulary.log_frequencies)
    return np.repeat((shares / shares.sum())[None], rows, axis=0).astype(np.float32)


def test_on_the_same_trunk_the_head_is_kept(model: PersonalModel) -> None:
    assert model.update_trunk(OLD, TO_NEW) is HeadPolicy.KEEP
    assert model.head_trust.age == 0
    assert model.head_for(OLD) is model.head


def test_with_the_versions_map_the_head_comes_along_and_ages(model: PersonalModel) -> None:
    before = model.mixtures()

    assert model.update_trunk(NEW, TO_NEW) is HeadPolicy.MAP

    found = model.head_for(NEW)
    assert found is not None
    assert found.down.tolist() == (2 * head().down).tolist()
    assert found.bias.tolist() == [1.0]
    assert model.head_trust.age == 1
    after = model.mixtures()
    assert (after[:, HEAD] < before[:, HEAD]).all()
    np.testing.assert_allclose(after[:, : HEAD + 1].sum(axis=1), before[:, : HEAD + 1].sum(axis=1))
    assert after[0, TRUNK] > before[0, TRUNK]


@pytest.mark.parametrize(
    "head_map",
    [
        None,
        replace(TO_NEW, from_space=NEWER),
        replace(TO_NEW, to_space=NEWER),
        replace(TO_NEW, states=np.full((WIDTH, WIDTH), np.nan, np.float32)),
    ],
    ids=["no map", "from elsewhere", "to elsewhere", "not finite"],
)
def test_without_a_map_that_fits_the_head_is_set_aside(
    model: PersonalModel, head_map: HeadMap | None
) -> None:
    assert model.update_trunk(NEW, head_map) is HeadPolicy.REFIT
    assert model.head_for(NEW) is None
    assert model.head is not None
    assert model.head.space == OLD


def test_a_head_that_was_set_aside_comes_back_when_its_map_turns_up(model: PersonalModel) -> None:
    model.update_trunk(NEW)

    assert model.update_trunk(NEW, TO_NEW) is HeadPolicy.MAP
    assert model.head_for(NEW) is not None


def test_a_refitted_head_has_all_of_its_weight(model: PersonalModel) -> None:
    before = model.mixtures()
    model.update_trunk(NEW, TO_NEW)

    model.set_head(replace(head(), space=NEW))

    assert model.mixtures().tolist() == before.tolist()


def test_no_head_has_nothing_to_follow_with(words: Vocabulary) -> None:
    assert PersonalModel.new(words).update_trunk(NEW, TO_NEW) is HeadPolicy.DROP


def test_a_head_of_another_space_is_refused_where_it_would_be_used() -> None:
    with pytest.raises(WrongSpaceError, match="map or refit it"):
        head().require_space(NEW)


def test_judged_words_bring_a_mapped_heads_weight_back(model: PersonalModel) -> None:
    model.update_trunk(NEW, TO_NEW)
    assert (model.mixtures()[:, HEAD] < model.weights.current()[:, HEAD]).all()
    zoo = model.encode("zoo")[0]
    better = probabilities(model.vocabulary, 4)
    better[:, zoo] += 0.5
    better /= better.sum(axis=1, keepdims=True)

    for _ in range(30):
        ids = model.encode("zoo zoo the zoo")
        model.learn("zoo zoo the zoo", model.judge(ids, probabilities(model.vocabulary, 4), better))

    assert model.head_trust.age == 0
    assert model.mixtures().tolist() == model.weights.current().tolist()


def test_judging_without_the_head_proves_nothing(model: PersonalModel) -> None:
    model.update_trunk(NEW, TO_NEW)

    for _ in range(60):
        ids = model.encode("zoo the")
        model.learn("zoo the", model.judge(ids, probabilities(model.vocabulary, 2)))

    assert model.head_trust.age == 1
    assert model.head_trust.words == 0


def test_age_and_a_head_that_is_set_aside_survive_the_state(model: PersonalModel) -> None:
    model.update_trunk(NEW, TO_NEW)
    model.update_trunk(NEWER)

    again = PersonalModel.from_state(model.to_state(), model.vocabulary, width=WIDTH)

    assert again.head_trust.age == 1
    assert again.head is not None
    assert again.head.space == NEW
    assert again.head_for(NEWER) is None


def test_a_state_without_a_standing_is_refused(model: PersonalModel) -> None:
    with pytest.raises(PersonalStateError, match="age"):
        PersonalModel.from_state(model.to_state() | {"standing": None}, model.vocabulary, width=WIDTH)
