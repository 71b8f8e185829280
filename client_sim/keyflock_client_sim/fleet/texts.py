"""Each phone holds a part of a corpus, as messages and as the model's token ids."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.sources import SHAKESPEARE, read_corpus
from keyflock_client_sim.corpora.splits import Split, split
from keyflock_models.text.sequences import encode_messages
from keyflock_models.text.vocabulary import Vocabulary

#: The public third of the plays, which version 0 is trained on, is on no phone.
PLAYS_PUBLIC_RATIO = 1 / 3


def split_into_phones(data: str, *, devices: int, seed: int) -> Split:
    """Return a fleet's phones with their messages, in the order of typing; one phone's text is set aside.

    Args:
        data: ``shakespeare``, or a ``.jsonl(.gz)`` file of users and messages.
        devices: The number of phones wanted; there are fewer where the corpus has fewer.
        seed: Decides whose text is on phones.
    Raises:
        CorpusError: the corpus cannot be read or is too small.
    """
    public_ratio = PLAYS_PUBLIC_RATIO if data == SHAKESPEARE else 0.0
    return split(read_corpus(data), seed=seed, devices=devices, held_out_devices=1, public_ratio=public_ratio)


def encode_texts(
    messages: Mapping[str, Sequence[str]], vocabulary: Vocabulary, length: int = 20
) -> dict[str, npt.NDArray[np.int32]]:
    """Encode each phone's messages as sequences, shape (N, length + 1), int32.

    Args:
        messages: The messages by the phone's name.
        vocabulary: The vocabulary of the ids.
        length: Tokens a sequence.
    """
    return {phone: encode_messages(vocabulary, list(typed), length) for phone, typed in messages.items()}
