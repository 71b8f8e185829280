"""Words that are never suggested: a small built-in list of slurs and coarse words, and an operator's file."""

import codecs
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from keyflock_models.text.special_tokens import SPECIAL_TOKENS
from keyflock_models.text.tokenizer import folded
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.settings import SettingsError

#: The built-in list, in ROT13, so that nobody reads it who did not mean to.
_DEFAULTS: Final = files("keyflock_server.suggestions") / "blocked_words.rot13.txt"


#: A vocabulary is English if this word is among its most frequent.
_ENGLISH, _MOST_FREQUENT = "the", 50


@dataclass(frozen=True, slots=True)
class BlockedWords:
    """A predicate for words that may be shown. A word that is blocked may still be typed and learned."""

    everywhere: frozenset[str]
    #: Blocked too, but in English alone: they are ordinary words of other languages.
    in_english: frozenset[str] = frozenset()

    def __call__(self, word: str) -> bool:
        """Return whether the word may be shown in English text."""
        return word.casefold() not in self.everywhere and word.casefold() not in self.in_english

    def in_language_of(self, vocabulary: Vocabulary) -> "BlockedWords":
        """Return the predicate for words in the language of the vocabulary."""
        first = len(SPECIAL_TOKENS)
        is_english = _ENGLISH in vocabulary.words[first : first + _MOST_FREQUENT]
        return self if is_english else BlockedWords(self.everywhere)


def may_show_from(path: Path | None, *, with_defaults: bool = True) -> BlockedWords:
    """Return a predicate for words that may be shown.

    Args:
        path: A file with one blocked word a line, in any case; None: no file.
        with_defaults: Whether the words of the built-in list are blocked as well.
    Raises:
        SettingsError: the file cannot be read.
    """
    lines: list[str] = []
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"--blocked-words: {path} cannot be read: {error}.") from None
    # Other spellings of the same characters (a curly apostrophe, a separate accent) are the same word.
    blocked = frozenset(folded(line.strip()).casefold() for line in lines if line.strip())
    defaults = default_blocked_words() if with_defaults else BlockedWords(frozenset())
    return BlockedWords(blocked | defaults.everywhere, defaults.in_english - blocked)


def default_blocked_words() -> BlockedWords:
    """Return the words of the built-in list."""
    lines = [line for line in _DEFAULTS.read_text(encoding="ascii").splitlines() if not line.startswith("#")]
    words = {codecs.decode(line.split()[0], "rot13"): "*" in line for line in lines}
    return BlockedWords(
        frozenset(word for word, is_ordinary in words.items() if not is_ordinary),
        frozenset(word for word, is_ordinary in words.items() if is_ordinary),
    )
