import numpy as np
import pytest

from keyflock_models.arrays import F32
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.vocabulary import Vocabulary

WIDTH = 6


def trunk_says(vocabulary: Vocabulary, rows: int) -> F32:
    """The public frequencies, whatever the context."""
    shares = np.exp(vocabulary.log_frequencies)
    return np.repeat((shares / shares.sum())[None], rows, axis=0).astype(np.float32)


def typed(model: PersonalModel, message: str, times: int) -> None:
    for _ in range(times):
        ids = model.encode(message)
        model.learn(message, model.judge(ids, trunk_says(model.vocabulary, len(ids))))


def test_a_new_model_suggests_what_the_trunk_does(words: Vocabulary) -> None:
    model = PersonalModel.new(words)

    found = model.suggest([], trunk_says(words, 1)[0])

    assert [word for word, _ in found] == ["the", "to", "that"]


def test_a_user_with_habits_opens_the_gate_and_gets_their_own_words(words: Vocabulary) -> None:
    model = PersonalModel.new(words)

    typed(model, "zoo xylo a zoo", times=40)

    assert model.gate.is_open
    context = model.encode("zoo")
    suggested = [word for word, _ in model.suggest(context, trunk_says(words, 1)[0])]
    assert suggested[0] == "xylo"


def test_a_judgement_is_made_before_the_message_is_learned(words: Vocabulary) -> None:
    model = PersonalModel.new(words)
    ids = model.encode("zoo zoo zoo")

    judgement = model.judge(ids, trunk_says(words, 3))

    assert [ranks.tolist() for ranks in judgement.ranks] == 3 * [judgement.ranks[0].tolist()]
    assert judgement.hits(0).tolist() == [0.0, 0.0, 0.0]


def test_a_personal_word_is_a_miss_of_the_trunk(words: Vocabulary) -> None:
    model = PersonalModel.new(words)
    typed(model, "xylo", times=30)
    ids = model.encode("xylo nobody")

    judgement = model.judge(ids, trunk_says(words, 2))

    assert ids == [len(words), OOV]
    assert judgement.hits(0).tolist() == [0.0, 0.0]
    assert judgement.hits(1).tolist() == judgement.hits(2).tolist() == [1.0, 0.0]


def test_a_forgotten_word_is_suggested_no_more_and_is_in_no_state(words: Vocabulary) -> None:
    model = PersonalModel.new(words)
    typed(model, "zoo xylo a zoo", times=40)

    model.forget_word("xylo")
    model.forget_word("zoo")

    suggested = [word for word, _ in model.suggest([], trunk_says(words, 1)[0], count=20)]
    assert "xylo" not in suggested
    assert "xylo" not in repr(model.to_state())
    assert model.history.to_state()["ids"].tolist() == [10]  # type: ignore[attr-defined]


def test_a_word_is_forgotten_however_it_is_written_and_in_the_head_too(words: Vocabulary) -> None:
    model = PersonalModel.new(words)
    typed(model, "zoo don't a zoo", times=40)
    zoo = words.encode(["zoo"])[0]
    ids, bias = np.array([5, zoo], np.int32), np.array([1.0, 2.0], np.float32)
    flat = np.zeros((WIDTH, 1), np.float32)
    model.head = PersonalHead("0" * 32, flat, flat.T, ids, bias)

    model.forget_word("Don\u2019t")
    model.forget_word("ZOO")

    assert "don't" not in repr(model.to_state())
    assert (model.head.bias_ids.tolist(), model.head.bias.tolist()) == ([5], [1.0])


@pytest.mark.fault("F1")
@pytest.mark.parametrize("spelling", ["'TIS", " tis.", "\u201ctis\u201d", "Tis\u200d"])
def test_a_word_is_forgotten_with_what_the_tokenizer_drops_around_it(
    words: Vocabulary, spelling: str
) -> None:
    model = PersonalModel.new(words)
    typed(model, f"{spelling} zoo", times=3)
    assert "tis" in model.words.all()

    model.forget_word(spelling)

    assert "tis" not in repr(model.to_state())


def test_an_evicted_words_counts_do_not_pass_to_its_successor(words: Vocabulary) -> None:
    model = PersonalModel.new(words)
    model.words.capacity = 1
    typed(model, "xylo a", times=3)

    typed(model, "yurt yurt yurt yurt the", times=1)

    assert model.words.word(len(words)) == "yurt"
    prediction = model.history.predict(0, len(words))
    assert prediction is not None
    # "xylo a" was counted after this id; "yurt" never stood before "a".
    worth = dict(zip(prediction.ids.tolist(), prediction.ngram.tolist(), strict=True))
    assert worth[len(words)] > worth[4] > 0
    assert prediction.match in {1, 2}


def test_the_state_gives_the_same_suggestions(words: Vocabulary) -> None:
    model = PersonalModel.new(words)
    typed(model, "zoo xylo a zoo", times=40)

    again = PersonalModel.from_state(model.to_state(), words, width=WIDTH)

    row = trunk_says(words, 1)[0]
    one, other = model.suggest([4], row), again.suggest([4], row)
    assert [word for word, _ in one] == [word for word, _ in other]
    assert [share for _, share in one] == pytest.approx([share for _, share in other], rel=1e-2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 1}, "version 2"),
        ({"vocabulary": "0" * 64}, "another vocabulary"),
        ({"words": 3}, "no map"),
        ({"history": None}, "no map"),
        ({"weights": None}, "another shape"),
        ({"gate": None}, "does not say what is proved"),
        ({"head": 3}, "no map"),
    ],
)
def test_a_state_that_cannot_be_one_is_refused(
    words: Vocabulary, change: dict[str, object], reason: str
) -> None:
    state = PersonalModel.new(words).to_state() | change

    with pytest.raises(PersonalStateError, match=reason):
        PersonalModel.from_state(state, words, width=WIDTH)
