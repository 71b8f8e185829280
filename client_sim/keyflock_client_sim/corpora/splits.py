"""This module decides which text is public, which phones train, and which phones are held out.

Held out are whole users, so that a figure says what a new user would see; or single phones, as in a fleet
where a person who types much has several phones and some of them never take part (docs/decisions/0012). The
only randomness is the seed: the same corpus and seed give the same split on every machine.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from keyflock_client_sim.corpora.sources import Corpus
from keyflock_client_sim.corpora.text import CorpusError, UserText

MAX_DEVICE_WORDS: Final = 2_000
MIN_DEVICE_WORDS: Final = 100

HeldOutBy = Literal["user", "phone"]


@dataclass(frozen=True, slots=True)
class DeviceText:
    """The text on one phone: a part of its user's messages, in their order."""

    #: Unique within the fleet: the user's name and the part's number.
    device: str
    user: str
    messages: tuple[str, ...]

    @property
    def words(self) -> int:
        """Return the number of words by white space."""
        return sum(len(message.split()) for message in self.messages)


@dataclass(frozen=True, slots=True)
class LeftOutUsers:
    """How many users have too little text to take part."""

    users: int = 0
    #: Those who were looked at, the left out among them.
    all_users: int = 0
    min_words: int = 0

    @classmethod
    def of(cls, users: Sequence[UserText], eligible: int, min_words: int) -> Self:
        """Return how many of these users are not eligible."""
        return cls(len(users) - eligible, len(users), min_words)

    def __str__(self) -> str:
        return (
            f"{self.users:,} of {self.all_users:,} users have less text than the {self.min_words} words that "
            "are needed, and are left out"
        )


@dataclass(frozen=True, slots=True)
class Split:
    """The three parts of a corpus; no phone is in two of them, and no user where users are held out."""

    #: The text that version 0 is trained on; no phone has it.
    public: tuple[UserText, ...]
    #: The fleet's phones.
    phones: tuple[DeviceText, ...]
    #: Phones that only evaluate: no phone trains on their text.
    held_out: tuple[DeviceText, ...]
    #: Users of whom no phone is in it, for want of text.
    left_out: LeftOutUsers = LeftOutUsers()


def split(
    corpus: Corpus,
    *,
    seed: int,
    devices: int,
    held_out_devices: int,
    public_ratio: float = 1 / 3,
    min_words: int = MIN_DEVICE_WORDS,
    max_words: int = MAX_DEVICE_WORDS,
    held_out_by: HeldOutBy = "user",
) -> Split:
    """Split one corpus into public groups, phones and held-out phones.

    Args:
        corpus: The corpus to split.
        seed: Decides which user is in which part.
        devices: The number of phones wanted; the result has fewer where the corpus has fewer.
        held_out_devices: The number of held-out phones wanted; at most a quarter of all where text is short.
        public_ratio: The share of the groups (plays, users) that is public; 0 for none.
        min_words: Phones with fewer words are dropped, as a real one with too few examples never trains.
        max_words: A user with more is several phones.
        held_out_by: Whether a user's phones are all held out or none, or each is drawn on its own.

    Raises:
        CorpusError: Not a single phone, or no held-out phone, is left.
    """
    public, rest = take_public(corpus.users, public_ratio, seed=seed, group_of=corpus.group_of)
    ordered = sorted(rest, key=lambda user: _rank(user.user, seed))
    lots = [parts for user in ordered if (parts := into_devices(user, min_words, max_words))]
    left_out = LeftOutUsers.of(ordered, len(lots), min_words)
    if held_out_by == "phone":
        every_phone = [phone for parts in lots for phone in parts]
        lots = [(phone,) for phone in _drawn(every_phone, len(every_phone), seed)]
    available = sum(len(parts) for parts in lots)
    held_out_wanted = min(held_out_devices, math.ceil(available / 4))
    held_out: list[DeviceText] = []
    phones: list[DeviceText] = []
    for parts in lots:
        (held_out if len(held_out) < held_out_wanted else phones).extend(parts)
    if not phones or not held_out:
        raise CorpusError(
            f"{corpus.name}: too little text for phones of {min_words} words beside held-out ones: {left_out}"
        )
    return Split(public, _drawn(phones, devices, seed), _drawn(held_out, held_out_wanted, seed), left_out)


def take_public(
    users: Sequence[UserText], ratio: float, *, seed: int, group_of: Callable[[UserText], str]
) -> tuple[tuple[UserText, ...], tuple[UserText, ...]]:
    """Return a share of the groups, and the rest; both in the corpus's order.

    Guarantees:
        A group is on one side only. A larger ratio takes a superset of what a smaller one takes.
    """
    groups = sorted({group_of(user) for user in users}, key=lambda group: _rank(group, seed))
    chosen = set(groups[: round(len(groups) * ratio)])
    public = tuple(user for user in users if group_of(user) in chosen)
    return public, tuple(user for user in users if group_of(user) not in chosen)


def into_devices(
    user: UserText, min_words: int = MIN_DEVICE_WORDS, max_words: int = MAX_DEVICE_WORDS
) -> tuple[DeviceText, ...]:
    """Cut a user's messages into phones of at most ``max_words`` words each, oldest messages first.

    Edge cases:
        a part below ``min_words`` -> dropped; a single message above ``max_words`` -> a phone of its own
    """
    return tuple(
        DeviceText(f"{user.user}#{number}", user.user, tuple(part))
        for number, part in enumerate(_parts(user.messages, max_words))
        if sum(len(message.split()) for message in part) >= min_words
    )


def _drawn(devices: Iterable[DeviceText], count: int, seed: int) -> tuple[DeviceText, ...]:
    return tuple(sorted(devices, key=lambda device: _rank(device.device, seed))[:count])


def _rank(name: str, seed: int) -> bytes:
    # A hash instead of a shuffle: a user's place depends on no other user, so a grown corpus keeps its split.
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _parts(messages: Iterable[str], max_words: int) -> Iterator[list[str]]:
    part: list[str] = []
    words = 0
    for message in messages:
        length = len(message.split())
        if part and words + length > max_words:
            yield part
            part, words = [], 0
        part.append(message)
        words += length
    if part:
        yield part
