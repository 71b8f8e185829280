import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from keyflock_models.text.sequences import encode_messages, letters_in_messages
from keyflock_models.text.special_tokens import BOS, EOS, OOV, PAD, SPECIAL_TOKENS
from keyflock_models.text.tokenizer import MASKED, NUMBER, tokenize
from keyflock_models.text.vocabulary import build_vocabulary

VOCABULARY = build_vocabulary(["a", "b", "c's", "2"], [0.3, 0.3, 0.2, 0.1], oov=0.1, eos=0.1)

texts = st.text() | st.text(alphabet="aAbBçÇİßﬁ12'’´.,:/@<>#_ -\u0301\U0001f600")
messages = st.lists(st.lists(st.sampled_from(["a", "b", "c's", "2", "zoo", "77"])).map(" ".join), max_size=8)


@given(texts)
def test_a_word_of_a_text_is_a_word_as_a_text(text: str) -> None:
    for token in tokenize(text):
        if token not in {MASKED, NUMBER}:
            assert tokenize(token) == [token]


@given(texts)
def test_no_text_spells_a_special_token(text: str) -> None:
    assert not set(tokenize(text)) & set(SPECIAL_TOKENS)


@given(messages, st.integers(1, 9))
@settings(deadline=None)
def test_the_targets_of_all_rows_are_all_words_each_once(texts: list[str], length: int) -> None:
    rows = encode_messages(VOCABULARY, texts, length)

    targets = [t for t in rows[:, 1:].reshape(-1).tolist() if t not in {PAD, BOS}]
    expected = [t for text in texts if tokenize(text) for t in [*VOCABULARY.encode(tokenize(text)), EOS]]
    assert targets == expected
    assert rows.shape == (len(rows), length + 1)


@given(messages, st.integers(1, 9))
@settings(deadline=None)
def test_letters_lie_under_words_alone(texts: list[str], length: int) -> None:
    rows, letters = encode_messages(VOCABULARY, texts, length), letters_in_messages(texts, length)

    assert letters.shape == rows.shape
    assert not letters[np.isin(rows, [PAD, BOS, EOS])].any()
    assert letters[(rows != OOV) & (rows > EOS)].all()
