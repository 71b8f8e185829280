"""The public text is encoded as rows for training, held-out rows and anchor rows.

A few users are kept back to see how it goes. The anchor text is a slice of theirs; where nobody is kept back,
a slice of the messages is held back for it alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.splits import take_public
from keyflock_client_sim.corpora.text import CorpusError, UserText
from keyflock_models.network.anchor import anchor_problem, choose_anchor
from keyflock_models.text.sequences import encode_messages
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_models.training.minibatches import pack

#: Tokens of a row, as phones train with.
SEQUENCE_LENGTH: Final = 20
#: The share of users held out, and the number of their rows that are evaluated: some 7,000 words, which tells
#: recall@1 to half a point.
HELD_OUT_RATIO: Final = 0.05
HELD_OUT_ROWS: Final = 600
#: Without held-out users, one message in so many is taken for the anchor text.
ANCHOR_EVERY: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class PublicText:
    """Encoded text, in parts that share no message."""

    #: Several messages to a row, shape (M, L + 1), int32.
    rows: npt.NDArray[np.int32]
    #: Rows of users who are not trained on, by user; empty where the text has fewer than twenty users.
    held_out: dict[str, npt.NDArray[np.int32]]
    #: The anchor text that versions are measured on, shape (N, L + 1), int32; None: too little text.
    anchor: npt.NDArray[np.int32] | None

    @classmethod
    def of(cls, users: tuple[UserText, ...], vocabulary: Vocabulary, *, seed: int) -> Self:
        """Encode and pack the text.

        Raises:
            CorpusError: There is no word to train on.
        """
        held_out_users, trained_on = take_public(
            users, HELD_OUT_RATIO, seed=seed, group_of=lambda user: user.user
        )
        encoded = [encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH) for user in trained_on]
        messages = _joined(encoded)
        held_out = _limit_rows(held_out_users, vocabulary)
        anchor_rows = _joined(held_out.values())
        if not len(anchor_rows):
            is_anchor_row = np.arange(len(messages)) % ANCHOR_EVERY == ANCHOR_EVERY - 1
            messages, anchor_rows = messages[~is_anchor_row], messages[is_anchor_row]
        if not len(messages):
            raise CorpusError("there is no word to train on")
        return cls(pack(messages), held_out, anchor_of(anchor_rows, vocabulary))


def anchor_of(messages: npt.NDArray[np.int32], vocabulary: Vocabulary) -> npt.NDArray[np.int32] | None:
    """Return the anchor text in these rows of `encode_messages`; None where no word of theirs is known."""
    anchor = choose_anchor(pack(messages))
    return anchor if anchor is not None and not anchor_problem(anchor, vocabulary) else None


def _joined(parts: Iterable[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.zeros((0, SEQUENCE_LENGTH + 1), np.int32), *parts])


def _limit_rows(users: Iterable[UserText], vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.int32]]:
    encoded_users: dict[str, npt.NDArray[np.int32]] = {}
    missing = HELD_OUT_ROWS
    for user in users:
        rows = encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH)[:missing]
        if len(rows):
            encoded_users[user.user] = rows
            missing -= len(rows)
    return encoded_users
