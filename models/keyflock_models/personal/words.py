"""A user's own words outside the public vocabulary: names, slang, the way they spell.

A word is admitted when it is typed the second time (once may be a slip; users of keyboards that wait for more
complain). Extended ids are the public ids, then the personal words from ``first_id`` on; the trunk reads the
latter as OOV.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from sys import getsizeof
from typing import Final, Self

from keyflock_models.special_tokens import OOV
from keyflock_models.tokenizer import MASKED, NUMBER, tokenize
from keyflock_models.vocabulary import Vocabulary

MAX_LETTERS: Final = 48
_ADMITTED_AT: Final = 2


class PersonalStateError(ValueError):
    """The stored state of a personal model cannot have come from one; the message says what is wrong."""


@dataclass(slots=True, eq=False)
class PersonalWords:
    """Personal words and their ids. Changes in place: it is one user's, and lives as long as the keyboard.

    Args:
        first_id: Id of the first personal word; the public vocabulary's size.
        capacity: Most words held.
    """

    first_id: int
    capacity: int = 512
    #: Slot by slot: the word, or "" where one was removed. Id = first_id + slot.
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
        """The word of a personal id; "" where it was removed."""
        return self._slots[word_id - self.first_id]

    def encode(self, vocabulary: Vocabulary, message: str) -> list[int]:
        """Extended ids of a message's words, without BOS and EOS; OOV where neither side knows the word."""
        tokens = tokenize(message)
        return [
            self._ids.get(token, OOV) if public == OOV else public
            for token, public in zip(tokens, vocabulary.encode(tokens), strict=True)
        ]

    def learn(self, vocabulary: Vocabulary, message: str) -> list[int]:
        """Count the message's unknown words; admit those typed before.

        Returns:
            Ids whose word had to make room: whoever counts by id must forget them (`UserHistory.forget`).
        """
        tokens = tokenize(message)
        evicted: list[int] = []
        for token, public in zip(tokens, vocabulary.encode(tokens), strict=True):
            if public != OOV or token in {MASKED, NUMBER} or len(token) > MAX_LETTERS:
                continue
            if token in self._ids:
                self._uses[token] += 1
            elif (uses := self._candidates.pop(token, 0) + 1) >= _ADMITTED_AT:
                evicted.extend(self._admit(token, uses))
            else:
                self._candidates[token] = uses
                while len(self._candidates) > 2 * self.capacity:
                    del self._candidates[next(iter(self._candidates))]
        return evicted

    def remove(self, word: str) -> int | None:
        """Take a word out, from the candidates too. Returns its id if it had one; forget that as well."""
        self._candidates.pop(word, None)
        if word not in self._ids:
            return None
        word_id = self._ids.pop(word)
        del self._uses[word]
        self._slots[word_id - self.first_id] = ""
        return word_id

    def _admit(self, word: str, uses: int) -> list[int]:
        evicted = []
        if len(self._ids) >= self.capacity:
            # The least used goes, of those the earliest admitted.
            least = min(self._uses, key=self._uses.__getitem__)
            gone = self.remove(least)
            evicted = [] if gone is None else [gone]
        slot = self._slots.index("") if "" in self._slots else len(self._slots)
        if slot == len(self._slots):
            self._slots.append(word)
        else:
            self._slots[slot] = word
        self._ids[word] = self.first_id + slot
        self._uses[word] = uses
        return evicted

    def without_counts(self) -> Self:
        """The same words and ids, for whoever only reads: it cannot go on to learn, and weighs half."""
        return type(self)(self.first_id, self.capacity, list(self._slots), dict(self._ids))

    @property
    def size_bytes(self) -> int:
        """About what it takes of memory."""
        words = (*self._slots, *self._candidates)
        tables = (self._slots, self._ids, self._uses, self._candidates)
        # A word's id and its uses are whole numbers of their own, of 32 bytes each.
        return sum(map(getsizeof, (*words, *tables))) + 32 * (len(self._ids) + len(self._uses))

    def to_state(self) -> dict[str, object]:
        """As plain data."""
        return {
            "words": list(self._slots),
            "uses": [self._uses.get(word, 0) for word in self._slots],
            "candidates": list(self._candidates),
        }

    @classmethod
    def from_state(cls, state: object, first_id: int, capacity: int = 512) -> Self:
        """Back from `to_state`.

        Raises:
            PersonalStateError: it cannot have come from there.
        """
        if not isinstance(state, dict):
            raise PersonalStateError("the personal words are no map")
        slots = _words(state.get("words"), capacity, "words")
        candidates = _words(state.get("candidates"), 2 * capacity, "candidates")
        uses = state.get("uses")
        is_counted = isinstance(uses, Sequence) and len(uses) == len(slots)
        if not is_counted or not all(type(use) is int and 0 <= use < 2**31 for use in uses or ()):
            raise PersonalStateError("the personal words' uses are not one small whole number a word")
        held = [word for word in slots if word]
        if len(set(held)) != len(held) or "" in candidates or len(set(candidates)) != len(candidates):
            raise PersonalStateError("a personal word stands there twice")
        words = cls(first_id, capacity)
        words._slots = list(slots)
        words._ids = {word: first_id + slot for slot, word in enumerate(slots) if word}
        words._uses = {word: use for word, use in zip(slots, uses or (), strict=True) if word}
        words._candidates = dict.fromkeys(candidates, 1)
        return words


def _words(value: object, most: int, name: str) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) > most:
        raise PersonalStateError(f"the personal {name} are no list of at most {most}")
    for word in value:
        if not isinstance(word, str) or len(word) > MAX_LETTERS or (word and tokenize(word) != [word]):
            raise PersonalStateError(f"the personal {name} hold something that is no single word")
    return list(value)
