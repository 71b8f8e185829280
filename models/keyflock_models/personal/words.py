"""A user's own words outside the public vocabulary: names, slang, spellings.

A word is admitted when it is typed the second time (once may be a slip; users of keyboards that wait for more
complain). Extended ids are the public ids, then the personal words from ``first_id`` on; the trunk reads the
latter as OOV. `is_learnable` is the one rule of which words may be a user's own, typed or stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Final, Self

import regex  # type: ignore[import-untyped]  # its wheel has no type information

from keyflock_models.personal.typed_secrets import is_secret_word, words_without_secrets
from keyflock_models.text.special_tokens import OOV
from keyflock_models.text.tokenizer import MASKED, NUMBER, tokenize
from keyflock_models.text.vocabulary import Vocabulary

MAX_LETTERS: Final = 48
#: Maximum length of all words and candidates in UTF-8. In the worst script 1,536 words of 48 letters would
#: take more than the whole of a stored model may.
MAX_TEXT_BYTES: Final = 49_152
_MAX_LETTER_BYTES: Final = 4
_MAX_USES: Final = 2**31 - 1
_ADMITTED_AT: Final = 2
_LETTER: Final = regex.compile(r"\p{L}")


class PersonalStateError(ValueError):
    """The stored state of a personal model cannot have come from one; the message says what is wrong."""


def is_learnable(word: str) -> bool:
    """Return whether a word outside the vocabulary may be a user's own.

    It has a letter, is one word to the tokenizer and not too long, and is no secret.
    """
    return (
        len(word) <= MAX_LETTERS
        and _LETTER.search(word) is not None
        and word not in {MASKED, NUMBER}
        and not is_secret_word(word)
        and tokenize(word) == [word]
    )


@dataclass(slots=True, eq=False)
class PersonalWords:
    """One user's personal words and their ids. It changes in place, with every message.

    Args:
        first_id: Id of the first personal word; the public vocabulary's size.
        capacity: Maximum number of words.
    """

    first_id: int
    capacity: int = 512
    #: The word of each slot, or "" where one was removed. Id = first_id + slot.
    _slots: list[str] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=dict)
    #: How often each admitted word was typed.
    _uses: dict[str, int] = field(default_factory=dict)
    #: Words typed once, oldest first.
    _candidates: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def end_id(self) -> int:
        """One past the largest id in use."""
        return self.first_id + len(self._slots)

    def word(self, word_id: int) -> str:
        """Return the word of a personal id; "" where it was removed."""
        return self._slots[word_id - self.first_id]

    def all(self) -> tuple[str, ...]:
        """Return the words in the order of their ids, "" for each that was removed."""
        return tuple(self._slots)

    def encode(self, vocabulary: Vocabulary, message: str) -> list[int]:
        """Return the extended ids of a message's words, without BOS and EOS; OOV for an unknown word."""
        tokens = words_without_secrets(message, vocabulary)
        return [
            self._ids.get(token, OOV) if public == OOV else public
            for token, public in zip(tokens, vocabulary.encode(tokens), strict=True)
        ]

    def learn(self, vocabulary: Vocabulary, message: str) -> list[int]:
        """Count the message's unknown words, and admit those typed before.

        Returns:
            The ids whose word was evicted: what counts by id must forget them (`UserHistory.forget`).
        """
        tokens = words_without_secrets(message, vocabulary)
        evicted: list[int] = []
        for token, public in zip(tokens, vocabulary.encode(tokens), strict=True):
            if public != OOV or not is_learnable(token):
                continue
            if token in self._ids:
                self._uses[token] = min(self._uses[token] + 1, _MAX_USES)
            elif (uses := self._candidates.pop(token, 0) + 1) >= _ADMITTED_AT:
                evicted.extend(self._admit(token, uses))
            else:
                self._candidates[token] = uses
                while len(self._candidates) > 2 * self.capacity:
                    self._drop_oldest_candidate()
        return evicted + self._fit_text()

    def remove(self, word: str) -> int | None:
        """Remove a word, also from the candidates; return the id that it had, which others must forget."""
        self._candidates.pop(word, None)
        if word not in self._ids:
            return None
        word_id = self._ids.pop(word)
        del self._uses[word]
        self._slots[word_id - self.first_id] = ""
        return word_id

    def _admit(self, word: str, uses: int) -> list[int]:
        evicted: list[int] = []
        if len(self._ids) >= self.capacity:
            evicted = self._evict_least_used()
        slot = self._slots.index("") if "" in self._slots else len(self._slots)
        if slot == len(self._slots):
            self._slots.append(word)
        else:
            self._slots[slot] = word
        self._ids[word] = self.first_id + slot
        self._uses[word] = uses
        return evicted

    def _evict_least_used(self) -> list[int]:
        """Remove the least used word; of several, the one that was admitted first."""
        evicted = self.remove(min(self._uses, key=self._uses.__getitem__))
        return [] if evicted is None else [evicted]

    def _drop_oldest_candidate(self) -> None:
        del self._candidates[next(iter(self._candidates))]

    def _fit_text(self) -> list[int]:
        """Remove candidates, and then words, until the text fits; return the ids of the words."""
        evicted: list[int] = []
        # Counting is left out where even the longest words would fit.
        limit = MAX_TEXT_BYTES // (_MAX_LETTER_BYTES * MAX_LETTERS)
        while len(self._ids) + len(self._candidates) > limit and self._text_bytes() > MAX_TEXT_BYTES:
            if self._candidates:
                self._drop_oldest_candidate()
            else:
                evicted.extend(self._evict_least_used())
        return evicted

    def _text_bytes(self) -> int:
        return len("".join((*self._ids, *self._candidates)).encode())

    def read_only_copy(self) -> Self:
        """Return a read-only copy of words and ids, which cannot learn and takes half the memory."""
        return type(self)(self.first_id, self.capacity, list(self._slots), dict(self._ids))

    @property
    def size_bytes(self) -> int:
        """The memory that it takes, approximately."""
        words = (*self._slots, *self._candidates)
        tables = (self._slots, self._ids, self._uses, self._candidates)
        # A word's id and its uses are whole numbers of their own, of 32 bytes each.
        return sum(map(getsizeof, (*words, *tables))) + 32 * (len(self._ids) + len(self._uses))

    def to_state(self) -> dict[str, object]:
        """Return the state as plain data."""
        return {
            "words": list(self._slots),
            "uses": [self._uses.get(word, 0) for word in self._slots],
            "candidates": list(self._candidates),
        }

    @classmethod
    def from_state(cls, state: object, first_id: int, capacity: int = 512) -> Self:
        """Restore what `to_state` returned.

        Guarantees:
            A word that is not learnable is left out and its slot is empty: an earlier release has learned
            it, or another writer. What learning can reach is restored as it was.
        Raises:
            PersonalStateError: the data cannot have come from there.
        """
        if not isinstance(state, dict):
            raise PersonalStateError("the personal words are no map")
        slots = _words(state.get("words"), capacity, "words")
        candidates = _words(state.get("candidates"), 2 * capacity, "candidates")
        uses = state.get("uses")
        is_counted = isinstance(uses, Sequence) and len(uses) == len(slots)
        if not is_counted or not all(type(use) is int and 0 <= use <= _MAX_USES for use in uses or ()):
            raise PersonalStateError("the personal words' uses are not one small whole number a word")
        present = [word for word in slots if word]
        if len(set(present)) != len(present) or "" in candidates or len(set(candidates)) != len(candidates):
            raise PersonalStateError("a personal word stands there twice")
        words = cls(first_id, capacity)
        slots = words._slots = [word if is_learnable(word) else "" for word in slots]
        words._ids = {word: first_id + slot for slot, word in enumerate(slots) if word}
        words._uses = {word: use for word, use in zip(slots, uses or (), strict=True) if word}
        words._candidates = dict.fromkeys(filter(is_learnable, candidates), 1)
        return words


def _words(value: object, max_words: int, name: str) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > max_words:
        raise PersonalStateError(f"the personal {name} are no list of at most {max_words}")
    for word in value:
        if not isinstance(word, str) or len(word) > MAX_LETTERS:
            raise PersonalStateError(f"the personal {name} are not texts of at most {MAX_LETTERS} letters")
    return list(value)
