"""Sequences: messages as rows of token ids, the form in which the model is trained and measured.

A message is BOS w1 ... wn EOS. A row holds `length` + 1 ids: its first `length` are inputs, its last
`length` the targets, one step later. A longer message is cut into several rows that share one id at each
cut, so that each word is a target exactly once.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from keyflock_models.arrays import I32
from keyflock_models.text.special_tokens import BOS, EOS, PAD
from keyflock_models.text.tokenizer import MASKED, NUMBER, tokenize
from keyflock_models.text.vocabulary import Vocabulary


def encode_messages(vocabulary: Vocabulary, messages: Sequence[str], length: int = 20) -> I32:
    """Encode a user's messages, in order, as rows padded with PAD. Shape (N, length + 1), int32.

    Guarantees:
        No id is outside the vocabulary. Without PAD and BOS, the targets of all rows are the words of all
        messages with an EOS after each.
    Edge cases:
        message without a word -> no row; no messages -> shape (0, length + 1)
    """
    rows: list[list[int]] = []
    for message in messages:
        ids = vocabulary.encode(tokenize(message))
        if ids:
            rows.extend(_split([BOS, *ids, EOS], length))
    return _padded(rows, length)


def recut(rows: I32, length: int) -> I32:
    """Return the same messages in rows of another length, as ``encode_messages`` would have cut them.

    Args:
        rows: Rows from ``encode_messages``, in order. Shape (N, L + 1), int32.
        length: Input tokens in a row of the result.
    Edge cases:
        the rows have this length already -> the same array
    """
    if rows.shape[1] == length + 1:
        return rows
    messages: list[list[int]] = []
    for row in rows.tolist():
        ids = [one for one in row if one != PAD]
        if ids[:1] == [BOS] or not messages:
            messages.append(ids)
        else:  # the row begins with the id that the one before ends with
            messages[-1].extend(ids[1:])
    return _padded([part for ids in messages for part in _split(ids, length)], length)


def letters_in_messages(messages: Sequence[str], length: int = 20) -> I32:
    """Count the letters of the word at each position of `encode_messages`' rows.

    This is the cost of typing it. Shape (N, length + 1), int32. Out-of-vocabulary words have their true
    length here, which their id no longer tells. Numbers and masked positions count 0: no keyboard completes
    them, and the original is unknown.
    """
    rows: list[list[int]] = []
    for message in messages:
        letters = [0 if token in {MASKED, NUMBER} else len(token) for token in tokenize(message)]
        if letters:
            rows.extend(_split([0, *letters, 0], length))
    return _padded(rows, length)


def _split(ids: list[int], length: int) -> Iterator[list[int]]:
    for start in range(0, len(ids) - 1, length):
        yield ids[start : start + length + 1]


def _padded(rows: list[list[int]], length: int) -> I32:
    if length < 1:
        msg = f"sequences of {length} tokens cannot hold a target"
        raise ValueError(msg)
    filled = np.full((len(rows), length + 1), PAD, np.int32)
    for row, ids in zip(filled, rows, strict=True):
        row[: len(ids)] = ids
    return filled
