import numpy as np
import pytest

from keyflock_models.text.sequences import encode_messages, letters_in_messages, recut
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.vocabulary import Vocabulary


def test_a_message_is_framed_and_filled_up(toy_vocabulary: Vocabulary) -> None:
    rows = encode_messages(toy_vocabulary, ["ag ah zebra"], length=6)

    assert rows.tolist() == [[1, 4, 5, OOV, 2, 0, 0]]
    assert rows.dtype.name == "int32"


def test_a_message_of_just_the_length_fills_one_row_and_one_word_more_begins_another(
    toy_vocabulary: Vocabulary,
) -> None:
    assert encode_messages(toy_vocabulary, ["ag ah ai"], length=4).tolist() == [[1, 4, 5, 6, 2]]
    assert encode_messages(toy_vocabulary, ["ag ah ai aj"], length=4).tolist() == [
        [1, 4, 5, 6, 7],
        [7, 2, 0, 0, 0],
    ]


def test_messages_without_a_word_give_no_row(toy_vocabulary: Vocabulary) -> None:
    assert encode_messages(toy_vocabulary, ["", "!!", "ag"], length=3).tolist() == [[1, 4, 2, 0]]
    assert encode_messages(toy_vocabulary, [], length=3).shape == (0, 4)


def test_letters_lie_where_the_words_lie_and_what_cannot_be_completed_counts_nothing() -> None:
    letters = letters_in_messages(["ag zebra 12345 http://x.example don't", "!!"], length=4)

    assert letters.tolist() == [[0, 2, 5, 0, 0], [0, 5, 0, 0, 0]]


def test_a_length_without_room_for_a_target_is_refused(toy_vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="cannot hold a target"):
        encode_messages(toy_vocabulary, [], length=0)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("before", [1, 2, 3, 4, 20])
@pytest.mark.parametrize("after", [1, 2, 3, 5, 20, 64])
def test_messages_that_are_cut_anew_are_cut_as_if_for_the_first_time(
    toy_vocabulary: Vocabulary, before: int, after: int
) -> None:
    messages = ["ag", "", "ag ah ai aj", "zebra", "ah " * 40, "ai aj", "ag ah ai"]

    again = recut(encode_messages(toy_vocabulary, messages, before), after)

    np.testing.assert_array_equal(again, encode_messages(toy_vocabulary, messages, after))


@pytest.mark.fault("F8")
def test_no_messages_are_none_at_any_length(toy_vocabulary: Vocabulary) -> None:
    assert recut(encode_messages(toy_vocabulary, [], 20), 5).shape == (0, 6)
