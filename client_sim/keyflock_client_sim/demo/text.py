"""The demo's text, encoded: what version 0 learns from, what each phone holds, and who is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.corpora.sources import Corpus, read_corpus
from keyflock_client_sim.corpora.splits import DeviceText, Split, split
from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.demo.options import BUILTIN, DemoOptions
from keyflock_models.sequences import encode_messages
from keyflock_models.vocabulary import Vocabulary

SEQUENCE_LENGTH = 20
#: Share of the corpus that is public when version 0 is to be trained on it.
PUBLIC_RATIO = 1 / 3
#: Held-out phones, as a share of the fleet.
HELD_OUT_RATIO = 0.5
#: Rows that are looked at after every round; all of them at the beginning and at the end.
SAMPLE_ROWS = 1_200

Sequences = npt.NDArray[np.int32]


def read_demo_text(options: DemoOptions) -> tuple[Corpus, Split]:
    """The corpus that the demo is asked for, cut into public text, phones and held-out phones.

    The public part is taken only where version 0 learns from it; otherwise phones have all the text.

    Raises:
        CorpusError: it cannot be read, or is too small.
    """
    corpus = read_corpus(options.data)
    parts = split(
        corpus,
        seed=options.seed,
        devices=options.devices,
        held_out_devices=round(options.devices * HELD_OUT_RATIO),
        public_ratio=PUBLIC_RATIO if options.pretrain == BUILTIN else 0.0,
    )
    return corpus, parts


@dataclass(frozen=True, slots=True, eq=False)
class DemoText:
    """Rows of ``encode_messages`` by phone and by held-out user."""

    phones: Mapping[str, Sequences]
    #: By user: the bootstrap draws people, not phones.
    held_out: Mapping[str, Sequences]
    held_out_phones: int
    #: What the baselines may count: all text that is not held out.
    central: Sequences

    @classmethod
    def of(cls, parts: Split, vocabulary: Vocabulary) -> Self:
        """Encodes all parts."""
        phones = {phone.device: _encoded(vocabulary, phone) for phone in parts.phones}
        public = [_encoded(vocabulary, user) for user in parts.public]
        held_out: dict[str, Sequences] = {}
        for phone in parts.held_out:
            rows = [held_out[phone.user]] if phone.user in held_out else []
            held_out[phone.user] = np.concatenate([*rows, _encoded(vocabulary, phone)])
        central = np.concatenate([*public, *phones.values()])
        return cls(phones, held_out, len(parts.held_out), central)

    def sample(self) -> Mapping[str, Sequences]:
        """The same few held-out users every time, cut short: a quick look between rounds."""
        share = -(-SAMPLE_ROWS // len(self.held_out))
        return {user: rows[:share] for user, rows in self.held_out.items()}


def _encoded(vocabulary: Vocabulary, text: UserText | DeviceText) -> Sequences:
    return encode_messages(vocabulary, text.messages, SEQUENCE_LENGTH)
