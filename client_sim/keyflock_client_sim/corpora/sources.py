"""This module turns a name or a file into a corpus: it is the meaning of ``--data``."""

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
    """The users of one source, and their groups."""

    #: The corpus's name: ``shakespeare`` or the file's name.
    name: str
    users: tuple[UserText, ...]
    #: Returns the group that the public part takes as a whole: the play, or the user alone.
    group_of: Callable[[UserText], str]

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of all text, in order."""
        return text.digest(self.users)

    @property
    def words(self) -> int:
        """Return the number of words of all users, by white space."""
        return sum(user.words for user in self.users)


def read_corpus(source: str | Path) -> Corpus:
    """Read the corpus called ``shakespeare``, or the ``.jsonl(.gz)`` file at a path.

    Raises:
        CorpusError: It cannot be read; the message names the file, the line and the reason.
    """
    if source == SHAKESPEARE:
        return Corpus(SHAKESPEARE, read_plays(), play_of)
    path = Path(source)
    return Corpus(path.name, read_jsonl(path), _user_name)


def _user_name(user: UserText) -> str:
    return user.user
