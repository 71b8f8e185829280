"""Slips are not offered and go; words that are only alike stay."""

import numpy as np
import pytest
from tests.unit.models.personal.test_personal_model import trunk_says

from keyflock_compression import decode_state, encode_state
from keyflock_models.personal.gate import Gate
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.slips import is_one_edit, slip_strengths
from keyflock_models.serving.profile import ServingProfile
from keyflock_models.serving.vocabulary_index import VocabularyIndex
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

pytestmark = pytest.mark.fault("F4")

WORDS = ["the", "going", "from", "form", "like", "there", "where", "home"]


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return build_vocabulary(WORDS, [0.1] * len(WORDS), oov=0.1, eos=0.1)


def typed(vocabulary: Vocabulary, **counts: int) -> PersonalModel:
    """The model of someone who typed each word so many times, one word after the other."""
    model = PersonalModel.new(vocabulary)
    for word, count in counts.items():
        model.learn(" ".join([word] * count), None)
    model.gate = Gate.opened()
    return model


def offered(model: PersonalModel, prefix: str) -> list[str]:
    """All that is offered for a prefix, on the phone."""
    row = trunk_says(model.vocabulary, 1)[0]
    return [word for word, _ in model.suggest([], row, count=20, prefix=prefix)]


@pytest.mark.parametrize("slip", ["goign", "goinh", "goingg", "gping", "oging", "giing", "gooing"])
def test_a_slip_is_neither_completed_nor_predicted_and_is_forgotten(words: Vocabulary, slip: str) -> None:
    model = typed(words, **{slip: 2, "going": 50})
    hidden = offered(model, slip[:2]), offered(model, "")
    before = slip in model.words.all()
    for _ in range(10):
        model.learn(" ".join(["going"] * 37), None)

    assert before
    assert slip not in {*hidden[0], *hidden[1]}
    assert slip not in repr(model.to_state())
    assert "going" in offered(model, "go")


def test_a_slip_typed_after_the_word_is_never_offered(words: Vocabulary) -> None:
    model = typed(words, going=400)
    for _ in range(3):
        model.learn("goign", None)

        assert "goign" not in offered(model, "go")


def test_the_server_hides_a_slip_as_the_phone_does(words: Vocabulary) -> None:
    model = typed(words, goign=2, xylophone=2, going=50)
    again = PersonalModel.from_state(decode_state(encode_state(model.to_state())), words, width=4)

    profile = ServingProfile.from_model(again, VocabularyIndex.from_vocabulary(words))

    hidden = {again.word(int(profile.history.ids[at])) for at in profile.hidden_positions}
    assert hidden == {"goign"}


@pytest.mark.parametrize(
    ("counts", "word"),
    [
        # A word of the public vocabulary, however rare it is.
        ({"form": 1, "from": 400}, "form"),
        # A name that is used.
        ({"mike": 6, "like": 400}, "mike"),
        ({"tom": 2, "to": 400}, "tom"),
        ({"theres": 25, "there": 400}, "theres"),
        # Alike, and the other one is no frequent word.
        ({"goign": 2, "going": 15}, "goign"),
        # Two edits away.
        ({"goings": 2, "xgoing": 2, "gogin": 2, "home": 400}, "gogin"),
        # So short that everything is alike.
        ({"u": 2, "i": 400}, "u"),
    ],
)
def test_a_word_that_is_only_alike_is_offered(words: Vocabulary, counts: dict[str, int], word: str) -> None:
    model = typed(words, **counts)

    assert word in offered(model, word[0])


def test_a_word_that_was_taken_for_a_slip_comes_back_by_being_used(words: Vocabulary) -> None:
    model = typed(words, going=400)
    uses = 0
    while "goingo" not in offered(model, "go") and uses < 100:
        model.learn("goingo", None)
        uses += 1

    # The first makes a candidate; of the others it takes a twentieth of what is left of 400.
    assert uses == 21


def test_a_slip_is_forgotten_only_when_it_was_long_not_typed(words: Vocabulary) -> None:
    model = typed(words, going=200, goign=2)
    model.learn(" ".join(["home"] * 299), None)
    is_there = "goign" in model.words.all()
    model.learn(" ".join(["home"] * 90), None)

    assert is_there
    assert "goign" not in model.words.all()


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        ("going", "goign", True),
        ("going", "ogign", False),
        ("going", "ging", True),
        ("going", "oing", True),
        ("going", "goin", True),
        ("going", "goingx", True),
        ("going", "xgoing", True),
        ("going", "goxng", True),
        ("going", "going", False),
        ("going", "ginog", False),
        ("going", "gn", False),
        ("ab", "ba", True),
        ("abc", "cab", False),
    ],
)
def test_one_edit_is_a_letter_more_less_or_another_or_two_exchanged(
    one: str, other: str, is_one: bool
) -> None:
    assert is_one_edit(one, other) is is_one_edit(other, one) is is_one


def test_the_boundaries_of_the_ratio() -> None:
    def slips(own: str, count: float, other: str, others: float) -> dict[int, float]:
        return slip_strengths([(9, own, count)], [(4, other, others)])

    assert slips("goign", 2.0, "going", 40.0) == {9: 1.0}
    assert slips("goign", 2.0, "going", 39.9) == {}
    assert slips("goign", 0.1, "going", 20.0) == {9: 1.0}
    assert slips("mkie", 2.0, "mike", 200.0) == {9: 1.0}
    assert slips("mkie", 2.0, "mike", 199.0) == {}
    assert slips("ot", 1.0, "to", 9_999.0) == {}


def test_a_judged_slip_is_a_miss(words: Vocabulary) -> None:
    model = typed(words, goign=2, going=50)
    ids = model.encode("goign")

    judgement = model.judge(ids, trunk_says(words, 1))

    assert ids == [len(words)]
    assert [ranks.tolist() for ranks in judgement.ranks][1:] == 2 * [[model.words.end_id]]
    assert np.count_nonzero(judgement.hits()) == 0
