import pytest

from keyflock_models.personal.words import MAX_TEXT_BYTES, PersonalStateError, PersonalWords
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
        ({"words": [7], "uses": [1]}, "not texts of at most 48 letters"),
        ({"words": ["xylo", "xylo"], "uses": [1, 1]}, "twice"),
        ({"candidates": ["xylo", "xylo"]}, "twice"),
        ({"candidates": [""]}, "twice"),
        ({"words": ["xylo"], "uses": []}, "one small whole number a word"),
        ({"words": ["xylo"], "uses": [-1]}, "one small whole number a word"),
        ({"words": ["xylo"], "uses": [True]}, "one small whole number a word"),
        ({"words": [f"q{'x' * 50}"], "uses": [1]}, "not texts of at most 48 letters"),
    ],
)
def test_a_state_that_cannot_be_one_is_refused(
    words: Vocabulary, change: dict[str, object], reason: str
) -> None:
    state = {"words": [], "uses": [], "candidates": []} | change

    with pytest.raises(PersonalStateError, match=reason):
        PersonalWords.from_state(state, len(words))


@pytest.mark.fault("F1")
@pytest.mark.parametrize(
    "other", ["two words", "12'", "\ufe0f", "hunter2pass99", "<masked>", "4", "x\u0301\u0301 "]
)
def test_a_stored_word_that_would_not_be_learned_is_left_out(words: Vocabulary, other: str) -> None:
    state = {"words": ["xylo", other, "yurt"], "uses": [3, 4, 5], "candidates": [other, "zinc"]}

    again = PersonalWords.from_state(state, len(words))

    assert again.to_state() == {"words": ["xylo", "", "yurt"], "uses": [3, 0, 5], "candidates": ["zinc"]}
    assert again.encode(words, "xylo yurt") == [len(words), len(words) + 2]


@pytest.mark.fault("F1")
def test_the_text_of_all_words_is_bounded_and_candidates_go_first(words: Vocabulary) -> None:
    own = PersonalWords(len(words))
    letters = "\u4e00\u4e01\u4e02\u4e03"
    for number in range(400):
        name = "".join(letters[number // 4**digit % 4] for digit in range(5)) + "\u5929" * 43
        own.learn(words, f"{name} {name}" if number < 350 else name)

    state = own.to_state()

    assert MAX_TEXT_BYTES - 144 < sum(len(word.encode()) for word in own.all()) <= MAX_TEXT_BYTES
    assert state["candidates"] == []
    assert PersonalWords.from_state(state, len(words)).to_state() == state
