import pytest

from keyflock_models.personal.words import PersonalStateError, PersonalWords
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.vocabulary import Vocabulary


def test_a_word_is_admitted_when_it_is_typed_the_second_time(words: Vocabulary) -> None:
    own = PersonalWords(len(words))

    own.learn(words, "the xylo")
    once = own.encode(words, "the xylo")
    own.learn(words, "xylo the")

    assert once == [4, OOV]
    assert own.encode(words, "the xylo") == [4, len(words)]
    assert own.word(len(words)) == "xylo"


def test_a_word_typed_twice_in_one_message_counts_twice(words: Vocabulary) -> None:
    own = PersonalWords(len(words))

    own.learn(words, "xylo xylo")

    assert len(own) == 1


def test_numbers_and_masks_and_words_without_end_are_nobodys_words(words: Vocabulary) -> None:
    own = PersonalWords(len(words))

    for _ in range(3):
        own.learn(words, "<#> 12345 " + "x" * 60)

    assert len(own) == 0
    assert own.to_state()["candidates"] == []


def test_the_least_used_word_makes_room_and_says_which_id_must_be_forgotten(words: Vocabulary) -> None:
    own = PersonalWords(len(words), capacity=2)
    for message in ("xylo xylo xylo", "yurt yurt"):
        own.learn(words, message)

    evicted = own.learn(words, "zinc zinc")

    assert evicted == [len(words) + 1]
    assert own.encode(words, "xylo yurt zinc") == [len(words), OOV, len(words) + 1]


def test_candidates_are_bounded(words: Vocabulary) -> None:
    own = PersonalWords(len(words), capacity=3)

    letters = "abcdefghijklmnopqrstuvwxyz"
    own.learn(words, " ".join(f"q{one}q" for one in letters))

    assert own.to_state()["candidates"] == ["quq", "qvq", "qwq", "qxq", "qyq", "qzq"]


def test_a_removed_word_is_in_no_state(words: Vocabulary) -> None:
    own = PersonalWords(len(words))
    own.learn(words, "xylo xylo yurt")

    assert own.remove("xylo") == len(words)
    assert own.remove("yurt") is None

    assert own.to_state() == {"words": [""], "uses": [0], "candidates": []}
    assert own.encode(words, "xylo") == [OOV]


def test_the_state_gives_the_same_words_back(words: Vocabulary) -> None:
    own = PersonalWords(len(words), capacity=2)
    own.learn(words, "xylo xylo yurt yurt zinc")
    own.remove("xylo")

    again = PersonalWords.from_state(own.to_state(), len(words), capacity=2)

    assert again.to_state() == own.to_state()
    assert again.encode(words, "yurt") == own.encode(words, "yurt") == [len(words) + 1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"words": "xylo"}, "no list"),
        ({"words": ["two words"], "uses": [1]}, "no single word"),
        ({"words": [7], "uses": [1]}, "no single word"),
        ({"words": ["xylo", "xylo"], "uses": [1, 1]}, "twice"),
        ({"candidates": ["xylo", "xylo"]}, "twice"),
        ({"candidates": [""]}, "twice"),
        ({"words": ["xylo"], "uses": []}, "one small whole number a word"),
        ({"words": ["xylo"], "uses": [-1]}, "one small whole number a word"),
        ({"words": ["xylo"], "uses": [True]}, "one small whole number a word"),
        ({"words": [f"q{'x' * 50}"], "uses": [1]}, "no single word"),
    ],
)
def test_a_state_that_cannot_be_one_is_refused(
    words: Vocabulary, change: dict[str, object], reason: str
) -> None:
    state = {"words": [], "uses": [], "candidates": []} | change

    with pytest.raises(PersonalStateError, match=reason):
        PersonalWords.from_state(state, len(words))
