"""This module encodes held-out users' text for measuring, and the text that baselines may count."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.splits import Split
from keyflock_models.text.sequences import encode_messages, letters_in_messages
from keyflock_models.text.vocabulary import Vocabulary

SEQUENCE_LENGTH: Final = 20


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutText:
    """The text is stored by user, because figures are per user and the bootstrap draws users."""

    #: Rows of token ids, shape (N, L + 1), int32.
    sequences: dict[str, npt.NDArray[np.int32]]
    #: Letters of the word at each position, same shapes.
    letters: dict[str, npt.NDArray[np.int32]]
    #: All text that is not held out, public and phones', for baselines. Shape (M, L + 1), int32.
    elsewhere: npt.NDArray[np.int32]

    @classmethod
    def of(cls, parts: Split, vocabulary: Vocabulary) -> Self:
        """Encode a split; a user's several phones are one user again."""
        messages: dict[str, list[str]] = {}
        for phone in parts.held_out:
            messages.setdefault(phone.user, []).extend(phone.messages)
        others = [encode_messages(vocabulary, text.messages, SEQUENCE_LENGTH) for text in parts.public]
        others += [encode_messages(vocabulary, phone.messages, SEQUENCE_LENGTH) for phone in parts.phones]
        return cls(
            {user: encode_messages(vocabulary, texts, SEQUENCE_LENGTH) for user, texts in messages.items()},
            {user: letters_in_messages(texts, SEQUENCE_LENGTH) for user, texts in messages.items()},
            np.concatenate(others),
        )
