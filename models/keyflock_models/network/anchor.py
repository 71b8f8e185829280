"""The anchor text: public text that nobody trains on, as token ids, on which every new version is measured.

It is held out when version 0 is pre-trained, and each checkpoint passes it on to the next. A federation's own
text differs from it, so the loss on it is no measure of how good a version is; but weights that have diverged
lose all language, this one too.
"""

from typing import Final

import numpy as np

from keyflock_models.arrays import I32
from keyflock_models.text.vocabulary import Vocabulary

#: Maximum number of rows: some 1,200 words, whose loss takes a full-size network 0.1 s on two cores.
MAX_ANCHOR_ROWS: Final = 64
#: Maximum number of token ids per row: one more than the longest sequence that is trained on here.
MAX_ANCHOR_COLUMNS: Final = 33


def choose_anchor(rows: I32) -> I32 | None:
    """Return at most ``MAX_ANCHOR_ROWS`` of these rows, evenly spread over them.

    Args:
        rows: Rows of `encode_messages`, packed or not, shape (N, L + 1).
    Edge cases:
        no rows -> None
    """
    if not len(rows):
        return None
    chosen = np.unique(np.linspace(0, len(rows) - 1, MAX_ANCHOR_ROWS).astype(np.int64))
    return np.ascontiguousarray(rows[chosen], np.int32)


def anchor_problem(rows: I32, vocabulary: Vocabulary) -> str:
    """Return what keeps these rows from being an anchor text for this vocabulary; empty: nothing does."""
    if rows.dtype != np.int32 or rows.ndim != 2:
        return f"an anchor text is rows of int32 ids, not {rows.dtype} of shape {rows.shape}"
    if not (1 <= rows.shape[0] <= MAX_ANCHOR_ROWS and 2 <= rows.shape[1] <= MAX_ANCHOR_COLUMNS):
        return (
            f"an anchor text has 1 to {MAX_ANCHOR_ROWS} rows of 2 to {MAX_ANCHOR_COLUMNS} ids, "
            f"not {rows.shape[0]} of {rows.shape[1]}"
        )
    if rows.min() < 0 or rows.max() >= len(vocabulary):
        return f"an id of the anchor text is not in a vocabulary of {len(vocabulary)} words"
    return "" if anchor_tokens(rows, vocabulary) else "the anchor text has no word that could be suggested"


def anchor_tokens(rows: I32, vocabulary: Vocabulary) -> int:
    """Return how many targets of an anchor text are words that could be suggested: what its loss is over."""
    return int(vocabulary.is_displayable[rows[:, 1:]].sum())
