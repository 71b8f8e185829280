import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyflock_models.text.sequences import encode_messages, letters_in_messages
from keyflock_models.text.special_tokens import BOS, EOS, OOV, PAD, SPECIAL_TOKENS
from keyflock_models.text.tokenizer import MASKED, NUMBER, has_letter, tokenize
from keyflock_models.text.vocabulary import build_vocabulary

VOCABULARY = build_vocabulary(["a", "b", "c's", "b4"], [0.3, 0.3, 0.2, 0.1], oov=0.1, eos=0.1)

DATA = Path(os.environ.get("KEYFLOCK_DATA", Path(__file__).parents[3].parent / "shared" / "data"))

# Letters, marks, digits and signs that change each other, or that the tokenizer treats in a way of their own.
AWKWARD = (
    "aAbBçÇİIıißﬁςσΣlL\u0140\u00b7\u0130\u0307\u0301\u0328\u0345\u0e33\u1fef\u1ffd\u0387\u212a\ua78b\u2139"
    "12\u0663\u2167\u00bd'’\u02bc´`\u05f3\u05f4\"אב\u05b8\u05c1\ufb2aا\u0627\u0654\u0640\u064e\u09b0\u09cd"
    ".,:/@<>#_* -\u200b\u200c\u200d\u00ad\ufe0f\u20e3\u3164\u1100\u1161\U0001f600\U0001f3fd\U0001f1f8"
)
pieces = (
    st.characters(exclude_categories=["Cs"])
    | st.characters(categories=["Mn", "Mc", "Me"])
    | st.sampled_from(AWKWARD)
    | st.sampled_from(
        ["<number>", "<masked>", "<pad>", "</s>", "http://", "www.", "a@b.c", "11'", "3\ufe0f\u20e3"]
    )
)
texts = st.text() | st.lists(pieces, max_size=12).map("".join)
messages = st.lists(st.lists(st.sampled_from(["a", "b", "c's", "b4", "zoo", "77"])).map(" ".join), max_size=8)


@pytest.mark.fault("F1")
@given(texts)
@settings(max_examples=300, deadline=None)
def test_a_token_of_a_text_is_that_token_as_a_text(text: str) -> None:
    for token in tokenize(text):
        assert tokenize(token) == [token]


@pytest.mark.fault("F1")
def test_every_single_character_gives_tokens_that_are_read_as_themselves() -> None:
    # The planes beyond hold ideographs and nothing else.
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]

    tokens = {token for point in points for token in tokenize(f"{chr(point)} a{chr(point)}b")}

    assert [token for token in tokens if tokenize(token) != [token]] == []


@pytest.mark.fault("F3")
@given(texts)
def test_every_word_has_a_letter(text: str) -> None:
    assert all(has_letter(token) for token in tokenize(text) if token not in {MASKED, NUMBER})


@pytest.mark.fault("F1")
@pytest.mark.parametrize("name", ["nus_sms_en.jsonl.gz", "ubuntu_irc.jsonl.gz"])
def test_every_token_of_a_real_corpus_is_read_as_itself_and_every_word_has_a_letter(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"the corpus {name} is not here; KEYFLOCK_DATA names its folder")
    with gzip.open(DATA / name) as lines:
        tokens = {
            token for line in lines for message in json.loads(line)["messages"] for token in tokenize(message)
        }

    # Numbers only, so that a failure prints nobody's words.
    assert sum(tokenize(token) != [token] for token in tokens) == 0
    assert sum(not has_letter(token) for token in tokens - {MASKED, NUMBER}) == 0


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
