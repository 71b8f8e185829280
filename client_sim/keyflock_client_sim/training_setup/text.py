"""This module reads and encodes the demo's text: the public part, each phone's, and the held-out part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.sources import SHAKESPEARE, Corpus, read_corpus
from keyflock_client_sim.corpora.splits import Split, split
from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH, HeldOutText
from keyflock_client_sim.training_setup.options import BUILTIN, DemoOptions
from keyflock_models.text.sequences import encode_messages
from keyflock_models.text.vocabulary import Vocabulary

#: The share that ``keyflock-sim pretrain`` takes as well, by the same seed.
PUBLIC_RATIO: Final = 1 / 3
#: Held-out phones, as a share of the fleet.
HELD_OUT_RATIO: Final = 0.5
#: The number of rows evaluated after every round; all of them are at the beginning and at the end.
SAMPLE_ROWS: Final = 1_200

Sequences = npt.NDArray[np.int32]


def read_demo_text(options: DemoOptions) -> tuple[Corpus, Split]:
    """Read the demo's corpus, and split it into public text, phones and held-out phones.

    The plays' public third is on no phone even when version 0 is given, which may have been trained on it. Of
    a file only a ``builtin`` version 0 takes a part.

    Raises:
        CorpusError: it cannot be read, or is too small.
    """
    corpus = read_corpus(options.data)
    has_public_part = options.pretrain == BUILTIN or options.data == SHAKESPEARE
    parts = split(
        corpus,
        seed=options.seed,
        devices=options.devices,
        held_out_devices=round(options.devices * HELD_OUT_RATIO),
        public_ratio=PUBLIC_RATIO if has_public_part else 0.0,
        held_out_by=options.held_out,
    )
    return corpus, parts


@dataclass(frozen=True, slots=True, eq=False)
class DemoText:
    """The encoded text as rows of ``encode_messages``, shape (N, L + 1), int32."""

    #: The rows of each phone.
    phones: Mapping[str, Sequences]
    held_out: HeldOutText
    held_out_phones: int

    @classmethod
    def of(cls, parts: Split, vocabulary: Vocabulary) -> Self:
        """Encode all parts."""
        phones = {
            phone.device: encode_messages(vocabulary, phone.messages, SEQUENCE_LENGTH)
            for phone in parts.phones
        }
        return cls(phones, HeldOutText.of(parts, vocabulary), len(parts.held_out))

    def sample(self) -> Mapping[str, Sequences]:
        """Return the first rows of each held-out user, always the same, for evaluations between rounds."""
        everybody = self.held_out.sequences
        share = -(-SAMPLE_ROWS // len(everybody))
        return {user: rows[:share] for user, rows in everybody.items()}
