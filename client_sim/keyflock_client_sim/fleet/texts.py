"""What lies on each phone: a part of a corpus, as its messages and as the model's token ids."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.sources import SHAKESPEARE, read_corpus
from keyflock_client_sim.corpora.splits import split
from keyflock_models.sequences import encode_messages
from keyflock_models.vocabulary import Vocabulary

#: The public third of the plays, from which version 0 learns, is on no phone.
PLAYS_PUBLIC_RATIO = 1 / 3


def phone_messages(data: str, *, devices: int, seed: int) -> dict[str, tuple[str, ...]]:
    """Each phone's messages by its name, in the order of typing.

    Args:
        data: ``shakespeare``, or a ``.jsonl(.gz)`` file of users and messages.
        devices: Phones wanted; fewer come back where the corpus has fewer.
        seed: Decides whose text is on phones.
    Raises:
        CorpusError: the corpus cannot be read or is too small.
    """
    public_ratio = PLAYS_PUBLIC_RATIO if data == SHAKESPEARE else 0.0
    parts = split(
        read_corpus(data), seed=seed, devices=devices, held_out_devices=1, public_ratio=public_ratio
    )
    return {phone.device: tuple(phone.messages) for phone in parts.phones}


def in_sequences(
    messages: Mapping[str, Sequence[str]], vocabulary: Vocabulary, length: int = 20
) -> dict[str, npt.NDArray[np.int32]]:
    """Each phone's messages as sequences, shape (N, length + 1), int32.

    Args:
        messages: By the phone's name.
        vocabulary: Whose ids they become.
        length: Tokens a sequence.
    """
    return {phone: encode_messages(vocabulary, list(typed), length) for phone, typed in messages.items()}
