import numpy as np
import pytest

from keyflock_models.arrays import F32, I32
from keyflock_models.evaluation.keystrokes import PrefixRanges, keystroke_savings, letters_until_offered
from keyflock_models.evaluation.unigram import UnigramModel
from keyflock_models.text.sequences import encode_messages, letters_in_messages
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

WORDS = ["the", "to", "that", "tea", "team", "ten", "a", "zoo"]


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    shares = np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 40
    return build_vocabulary(WORDS, list(shares), oov=0.1, eos=0.1)


def letters_by_hand(vocabulary: Vocabulary, scores: F32, target: int) -> int:
    word = vocabulary.words[target]
    for letters in range(len(word)):
        offered = [i for i in range(4, len(vocabulary)) if vocabulary.words[i].startswith(word[:letters])]
        offered.sort(key=lambda i: (-scores[i], i))
        if target in offered[:3]:
            return letters
    return -1


def test_letters_are_counted_as_a_typist_would(words: Vocabulary) -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (200, len(words))).astype(np.float32)
    targets = rng.integers(4, len(words), 200).astype(np.int32)

    found = letters_until_offered(scores, targets, PrefixRanges(words.words, words.is_displayable))

    assert found.tolist() == [
        letters_by_hand(words, row, int(target)) for row, target in zip(scores, targets, strict=True)
    ]


def test_strokes_are_saved_by_prediction_and_by_completion(words: Vocabulary) -> None:
    # "the" is offered at once: 1 stroke for 4. "tea": after t come the, to, that; after te it is there, 3
    # strokes for 4. "zoo" after z: 2 for 4. "zebra" is unknown: 6 of 6. The number counts nothing.
    messages = ["the tea 12345", "zoo zebra"]
    model = UnigramModel(words, words.log_frequencies)

    found = keystroke_savings(
        model,
        words,
        {"ada": encode_messages(words, messages, 5)},
        {"ada": letters_in_messages(messages, 5)},
    )

    assert found.all.denominator.tolist() == [18]
    assert found.all.numerator.tolist() == [3 + 1 + 2]
    assert found.before_typing.numerator.tolist() == [3]


def test_a_sample_of_targets_is_drawn_for_each_user_by_the_seed(words: Vocabulary) -> None:
    messages = ["the team"] * 50
    rows, letters = encode_messages(words, messages, 5), letters_in_messages(messages, 5)
    model = UnigramModel(words, words.log_frequencies)

    def saved(seed: int) -> list[float]:
        both, silent = {"a": rows, "b": rows[:0]}, {"a": letters, "b": letters[:0]}
        found = keystroke_savings(model, words, both, silent, targets_per_user=7, seed=seed)
        return [*found.all.numerator, *found.all.denominator]

    assert saved(1) == saved(1)
    assert len({tuple(saved(seed)) for seed in range(9)}) > 1
    assert saved(1)[3] == 0
    assert 7 * 4 <= saved(1)[2] <= 7 * 5


def test_a_word_behind_three_better_completions_is_never_offered() -> None:
    vocabulary = build_vocabulary(["aa", "ab", "ac", "ad"], [0.4, 0.3, 0.2, 0.05], oov=0.05, eos=0.1)
    scores: F32 = vocabulary.log_frequencies[None, :]

    found: I32 = letters_until_offered(
        scores, np.array([7], np.int32), PrefixRanges(vocabulary.words, vocabulary.is_displayable)
    )

    assert found.tolist() == [-1]
