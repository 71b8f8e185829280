"""This module splits users into those who train the trunk and those measured, and cuts text in time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.personalising.reader import split_message

#: A user's later share of the words.
LATER_RATIO: Final = 0.2


@dataclass(frozen=True, slots=True)
class UserMessages:
    """One user's text, cut in time; no message longer than is read at once."""

    user: str
    earlier: tuple[str, ...]
    later: tuple[str, ...]


def split_users(users: Sequence[UserText], seed: int) -> tuple[list[UserText], list[UserText]]:
    """Split users by a hash into training and measured ones, so that a grown corpus keeps the split."""

    def rank(user: UserText) -> bytes:
        return hashlib.sha256(f"personalise:{seed}:{user.user}".encode()).digest()

    ordered = sorted(users, key=rank)
    return [one for one in ordered if rank(one)[-1] % 2], [one for one in ordered if not rank(one)[-1] % 2]


def cut_in_time(user: UserText, max_words: int) -> UserMessages:
    """Cut a user's latest words in time: four fifths to learn from, the last fifth to judge on."""
    pieces = [piece for message in user.messages for piece in split_message(message)]
    lengths = [len(piece.split()) for piece in pieces]
    included, words = 0, 0
    while included < len(pieces) and words < max_words:
        included += 1
        words += lengths[-included]
    pieces, lengths = pieces[len(pieces) - included :], lengths[len(pieces) - included :]
    boundary, so_far = 0, 0
    while boundary < len(pieces) - 1 and so_far < (1.0 - LATER_RATIO) * words:
        so_far += lengths[boundary]
        boundary += 1
    return UserMessages(user.user, tuple(pieces[:boundary]), tuple(pieces[boundary:]))


def shuffle_messages(users: Sequence[UserText], seed: int) -> list[UserText]:
    """Shuffle messages among users; every user keeps their number of messages."""
    every = [message for user in users for message in user.messages]
    order = np.random.default_rng(seed).permutation(len(every))
    dealt, begin = [], 0
    for user in users:
        end = begin + len(user.messages)
        dealt.append(replace(user, messages=tuple(every[at] for at in order[begin:end])))
        begin = end
    return dealt
