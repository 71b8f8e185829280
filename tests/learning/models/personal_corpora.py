"""What becomes of personal models on real text: all are restored, and nothing is offered that must not be.

    make corpora            (the shared corpora whole; ARGS=60 takes every sixtieth user)

Each user types their messages in order, with planted secrets of every kind among them, each of them twice.
The last line on stdout is one JSON object of figures.
"""

import gzip
import json
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import regex  # type: ignore[import-untyped]  # its wheel has no type information
from tests.unit.models.personal.planted_secrets import planted_secrets

from keyflock_compression import decode_state, encode_state
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.text.public_vocabulary import public_vocabulary
from keyflock_models.text.tokenizer import tokenize
from keyflock_models.text.vocabulary import Vocabulary

DATA: Final = Path(os.environ.get("KEYFLOCK_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
CORPORA: Final = ("nus_sms_en", "ubuntu_irc")
_WIDTH: Final = 8
_LETTER: Final = regex.compile(r"\p{L}")
#: Secrets planted into each user's messages, and the suggestions looked at after them.
_PLANTED: Final = 12
_ASKED: Final = 2


@dataclass
class Figures:
    """Counts over users."""

    users: int = 0
    own_words: int = 0
    largest_bytes: int = 0
    #: Users whose model is not restored bit for bit.
    not_restored: int = 0
    suggestions: int = 0
    #: Suggestions without a letter, and own words without one.
    without_letter: int = 0
    letterless_own_words: int = 0
    planted: int = 0
    #: Secrets of which a piece that the user typed nowhere else became a word, and pieces that were offered.
    learned: int = 0
    offered: int = 0
    kinds_learned: dict[str, int] = field(default_factory=dict)

    @property
    def share_kept_out(self) -> float:
        """Return the share of the planted secrets of which nothing was learned."""
        return 1.0 - self.learned / max(self.planted, 1)


def read_users(corpus: str, every: int = 1) -> Iterator[list[str]]:
    """Yield the messages of every so manieth user."""
    with gzip.open(DATA / f"{corpus}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number % every == 0:
                yield json.loads(line)["messages"]


def observe_user(messages: list[str], vocabulary: Vocabulary, seed: int, figures: Figures) -> None:
    """Let one user type, and add what became of it to the figures."""
    typed = {token for message in messages for token in tokenize(message)}
    secrets = list(planted_secrets(_PLANTED, seed))
    rng = random.Random(seed)
    stream = [*messages, *(message for _, message in secrets for _ in range(2))]
    order = sorted(
        range(len(stream)), key=lambda at: at if at < len(messages) else rng.randrange(len(messages) + 1)
    )
    model = PersonalModel.new(vocabulary)
    for at in order:
        model.learn(stream[at], None)
    data = encode_state(model.to_state())
    restored = PersonalModel.from_state(decode_state(data), vocabulary, width=_WIDTH)
    figures.users += 1
    figures.own_words += len(model.words)
    figures.largest_bytes = max(figures.largest_bytes, len(data))
    figures.not_restored += encode_state(restored.to_state()) != data
    own = set(model.words.all()) - {""}
    figures.letterless_own_words += sum(_LETTER.search(word) is None for word in own)
    pieces = {piece: kind for kind, message in secrets for piece in tokenize(message) if piece not in typed}
    learned = {kind for piece, kind in pieces.items() if piece in own}
    figures.planted += len(secrets)
    figures.learned += len(learned)
    for kind in learned:
        figures.kinds_learned[kind] = figures.kinds_learned.get(kind, 0) + 1
    trunk = np.exp(vocabulary.log_frequencies)
    for message in messages[:_ASKED]:
        found = restored.suggest(restored.encode(message), trunk, count=10, is_personal=True)
        words = [word for word, _ in found]
        figures.suggestions += len(words)
        figures.without_letter += sum(_LETTER.search(word) is None for word in words)
        figures.offered += sum(word in pieces and word in own for word in words)


def main() -> int:
    """Run over the shared corpora, print the figures, and return the exit status."""
    every = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    vocabulary = public_vocabulary("en")
    figures = Figures()
    for corpus in CORPORA:
        for seed, messages in enumerate(read_users(corpus, every)):
            observe_user(messages, vocabulary, seed, figures)
    is_held = not (
        figures.not_restored or figures.without_letter or figures.letterless_own_words or figures.offered
    )
    sys.stdout.write(json.dumps(asdict(figures) | {"kept_out": round(figures.share_kept_out, 5)}) + "\n")
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
