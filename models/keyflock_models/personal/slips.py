"""Slips of the finger among a user's own words: they are not suggested, and they go.

A word that is typed twice becomes the user's own, and a slip is typed twice sooner or later. It is known by
its company: a rare own word one edit (a letter more, less, another, or two exchanged) from a word that the
same user types far more often. To be alike is no evidence by itself (a name and a word), so the ratio of the
two counts decides, and a word comes back by being used. Words of the public vocabulary (`form`, `from`) are
never slips. Short words have many neighbours by chance, so they need a larger ratio.

Source: one edit covers four of five slips, Damerau 1964; neighbours by deletions, Garbe 2012 (SymSpell).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

#: A word is a slip if its neighbour was typed so many times as often.
SLIP_RATIO: Final = 20.0
#: The same for words of `_SHORT` letters and fewer.
SHORT_SLIP_RATIO: Final = 100.0
#: A slip is forgotten when its neighbour was typed so many times as often as makes it a slip, and it was not
#: typed again within so many words: a word that is used must be able to come back.
FADE_FACTOR: Final = 4.0
FADE_WORDS: Final = 300.0
_SHORT: Final = 4
#: Words of so few letters are one edit from everything.
_MIN_LETTERS: Final = 3


def slip_strengths(
    own: Iterable[tuple[int, str, float]], frequent: Iterable[tuple[int, str, float]]
) -> dict[int, float]:
    """Return the slips among a user's own words, each with how far it is beyond the ratio (at least 1).

    Args:
        own: Id, word and count of each own word.
        frequent: The same of each word that the user typed at least `SLIP_RATIO` times, own ones included.
    """
    neighbours: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for _, word, count in frequent:
        if len(word) >= _MIN_LETTERS:
            for key in _keys(word):
                neighbours[key].append((word, count))
    found: dict[int, float] = {}
    for word_id, word, count in own:
        if len(word) < _MIN_LETTERS:
            continue
        ratio = SHORT_SLIP_RATIO if len(word) <= _SHORT else SLIP_RATIO
        # A count has decayed since, and the first use was not counted.
        needed = ratio * max(count, 1.0)
        strength = max(
            (
                others / needed
                for key in _keys(word)
                for other, others in neighbours.get(key, ())
                if others >= needed and is_one_edit(word, other)
            ),
            default=0.0,
        )
        if strength:
            found[word_id] = strength
    return found


def is_one_edit(one: str, other: str) -> bool:
    """Return whether one letter more, less or another, or two exchanged, turn one word into the other."""
    if len(one) > len(other):
        one, other = other, one
    if len(other) - len(one) > 1 or one == other:
        return False
    at = next((at for at, letter in enumerate(one) if letter != other[at]), len(one))
    if len(one) < len(other):
        return one[at:] == other[at + 1 :]
    is_exchange = one[at : at + 2] == other[at : at + 2][::-1] and one[at + 2 :] == other[at + 2 :]
    return one[at + 1 :] == other[at + 1 :] or is_exchange


def _keys(word: str) -> Iterator[str]:
    """Yield the word, and the word without each of its letters: neighbours share one of these."""
    yield word
    yield from {word[:at] + word[at + 1 :] for at in range(len(word))}
