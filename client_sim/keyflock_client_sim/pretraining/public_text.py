"""The public text as the rows that training runs over, with a few users kept back to see how it goes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.splits import take_public
from keyflock_client_sim.corpora.text import CorpusError, UserText
from keyflock_models.minibatches import pack
from keyflock_models.sequences import encode_messages
from keyflock_models.vocabulary import Vocabulary

#: Tokens of a row: what phones train with as well.
SEQUENCE_LENGTH: Final = 20
#: Users kept back, as a share, and the rows of theirs that are looked at: some 7,000 words, which tells
#: recall@1 to half a point.
KEPT_BACK_RATIO: Final = 0.05
KEPT_BACK_ROWS: Final = 600


@dataclass(frozen=True, slots=True, eq=False)
class PublicText:
    """Encoded text, in two parts that share no user."""

    #: Several messages to a row, shape (M, L + 1), int32.
    rows: npt.NDArray[np.int32]
    #: Rows of users who are not trained on, by user; nobody where the text has fewer than twenty users.
    kept_back: dict[str, npt.NDArray[np.int32]]

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
        rows = pack(np.concatenate(encoded)) if encoded else np.zeros((0, SEQUENCE_LENGTH + 1), np.int32)
        if not len(rows):
            raise CorpusError("there is no word to train on")
        return cls(rows, _up_to_enough(looked_at, vocabulary))


def _up_to_enough(users: Iterable[UserText], vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.int32]]:
    kept: dict[str, npt.NDArray[np.int32]] = {}
    missing = KEPT_BACK_ROWS
    for user in users:
        rows = encode_messages(vocabulary, user.messages, SEQUENCE_LENGTH)[:missing]
        if len(rows):
            kept[user.user] = rows
            missing -= len(rows)
    return kept
