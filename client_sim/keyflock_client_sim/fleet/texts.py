"""What lies on each phone: a part of a corpus, as the model's token ids."""

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.sources import SHAKESPEARE, read_corpus
from keyflock_client_sim.corpora.splits import split
from keyflock_models.sequences import encode_messages
from keyflock_models.vocabulary import Vocabulary

#: The public third of the plays, from which version 0 learns, is on no phone.
PLAYS_PUBLIC_RATIO = 1 / 3


def phone_sequences(
    data: str, vocabulary: Vocabulary, *, devices: int, seed: int, length: int = 20
) -> dict[str, npt.NDArray[np.int32]]:
    """Each phone's sequences by its name, shape (N, length + 1), int32.

    Args:
        data: ``shakespeare``, or a ``.jsonl(.gz)`` file of users and messages.
        vocabulary: Whose ids they become.
        devices: Phones wanted; fewer come back where the corpus has fewer.
        seed: Decides whose text is on phones.
        length: Tokens a sequence.
    Raises:
        CorpusError: the corpus cannot be read or is too small.
    """
    public_ratio = PLAYS_PUBLIC_RATIO if data == SHAKESPEARE else 0.0
    parts = split(
        read_corpus(data), seed=seed, devices=devices, held_out_devices=1, public_ratio=public_ratio
    )
    return {phone.device: encode_messages(vocabulary, phone.messages, length) for phone in parts.phones}
