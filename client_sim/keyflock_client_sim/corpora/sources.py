"""A name or a file becomes a corpus: what ``--data`` means, in one place."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyflock_client_sim.corpora import text
from keyflock_client_sim.corpora.jsonl import read_jsonl
from keyflock_client_sim.corpora.shakespeare import play_of, read_plays
from keyflock_client_sim.corpora.text import UserText

SHAKESPEARE: Final = "shakespeare"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Users of one source, and how they belong together."""

    #: What a reader calls it: ``shakespeare`` or the file's name.
    name: str
    users: tuple[UserText, ...]
    #: The group that a user is never parted from when a public part is taken: the play, or the user alone.
    group_of: Callable[[UserText], str]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all text, in order."""
        return text.digest(self.users)

    @property
    def words(self) -> int:
        """Words of all users, by white space."""
        return sum(user.words for user in self.users)


def read_corpus(source: str | Path) -> Corpus:
    """The corpus called ``shakespeare``, or the ``.jsonl(.gz)`` file at a path.

    Raises:
        CorpusError: It cannot be read; one line says which file, which line and why.
    """
    if source == SHAKESPEARE:
        return Corpus(SHAKESPEARE, read_plays(), play_of)
    path = Path(source)
    return Corpus(path.name, read_jsonl(path), _user_name)


def _user_name(user: UserText) -> str:
    return user.user
