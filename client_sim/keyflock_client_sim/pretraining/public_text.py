"""The public text as the rows that training runs over, and what is held back from it.

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
from keyflock_models.anchor import anchor_problem, choose_anchor
from keyflock_models.minibatches import pack
from keyflock_models.sequences import encode_messages
from keyflock_models.vocabulary import Vocabulary

#: Tokens of a row: what phones train with as well.
SEQUENCE_LENGTH: Final = 20
#: Users kept back, as a share, and the rows of theirs that are looked at: some 7,000 words, which tells
#: recall@1 to half a point.
KEPT_BACK_RATIO: Final = 0.05
KEPT_BACK_ROWS: Final = 600
#: Without kept-back users, one message in so many is held back for the anchor text.
ANCHOR_EVERY: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class PublicText:
    """Encoded text, in parts that share no message."""

    #: Several messages to a row, shape (M, L + 1), int32.
    rows: npt.NDArray[np.int32]
    #: Rows of users who are not trained on, by user; nobody where the text has fewer than twenty users.
    kept_back: dict[str, npt.NDArray[np.int32]]
    #: What versions will be measured on, shape (N, L + 1), int32; None where there is too little text.
    anchor: npt.NDArray[np.int32] | None

    @classmethod
    def of(cls, users: tuple[UserText, ...], vocabulary: Vocabulary, *, seed: int) -> Self:
        """Encodes and packs.

        Raises:
            CorpusError: There is no word to train on.
        """
        looked_at, trained_on = take_public(
            users, KEPT_BACK_RATIO, seed=seed, group_of=lambda user: user.user
        )
        encoded = [encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH) for user in trained_on]
        messages = _joined(encoded)
        kept_back = _up_to_enough(looked_at, vocabulary)
        held_back = _joined(kept_back.values())
        if not len(held_back):
            is_held_back = np.arange(len(messages)) % ANCHOR_EVERY == ANCHOR_EVERY - 1
            messages, held_back = messages[~is_held_back], messages[is_held_back]
        if not len(messages):
            raise CorpusError("there is no word to train on")
        return cls(pack(messages), kept_back, anchor_of(held_back, vocabulary))


def anchor_of(messages: npt.NDArray[np.int32], vocabulary: Vocabulary) -> npt.NDArray[np.int32] | None:
    """Return the anchor text in these rows of `encode_messages`; None where no word of theirs is known."""
    anchor = choose_anchor(pack(messages))
    return anchor if anchor is not None and not anchor_problem(anchor, vocabulary) else None


def _joined(parts: Iterable[npt.NDArray[np.int32]]) -> npt.NDArray[np.int32]:
    return np.concatenate([np.zeros((0, SEQUENCE_LENGTH + 1), np.int32), *parts])


def _up_to_enough(users: Iterable[UserText], vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.int32]]:
    kept: dict[str, npt.NDArray[np.int32]] = {}
    missing = KEPT_BACK_ROWS
    for user in users:
        rows = encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH)[:missing]
        if len(rows):
            kept[user.user] = rows
            missing -= len(rows)
    return kept
