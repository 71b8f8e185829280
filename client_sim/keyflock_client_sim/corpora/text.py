"""A corpus consists of users, each with messages in the order they were written."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


class CorpusError(ValueError):
    """A corpus cannot be read; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class UserText:
    """One user's messages, oldest first. One user stands for one person, a device of theirs for one phone."""

    #: Unique within the corpus.
    user: str
    #: The messages in the order they were written; each is what a person would send at once.
    messages: tuple[str, ...]

    @property
    def words(self) -> int:
        """Return the number of words by white space: a measure of size that needs no vocabulary."""
        return sum(len(message.split()) for message in self.messages)


def digest(users: Iterable[UserText]) -> str:
    """Return the SHA-256 (hex) over users and messages in order; equal digests mean equal text."""
    hashed = hashlib.sha256()
    for text in users:
        for part in (text.user, *text.messages):
            encoded = part.encode()
            hashed.update(len(encoded).to_bytes(8, "little"))
            hashed.update(encoded)
        hashed.update(b"\xff" * 8)
    return hashed.hexdigest()
