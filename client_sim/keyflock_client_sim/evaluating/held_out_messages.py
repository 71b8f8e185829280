"""Some of a phone's messages are never trained on, so that versions can be scored on them.

Which ones is decided by a keyed hash of a message's words. So a message stays on its side for ever, however
often the phone trains, and so does the same sentence when it is typed again. The key is the phone's own:
what is common on all phones is not held out on all of them.

A rule by age ("what was typed since the last training") would lose its text with the next training, and
would put a repeated sentence on both sides.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from keyflock_models.text.tokenizer import tokenize

#: One message in so many is held out.
HELD_OUT_EVERY: Final = 5


class MessageSplit(NamedTuple):
    """A phone's messages by what they are for, each in the order of typing."""

    trained: tuple[str, ...]
    held_out: tuple[str, ...]


def split_messages(messages: Sequence[str], key: str) -> MessageSplit:
    """Split one phone's messages.

    Args:
        messages: The messages in the order of typing.
        key: The phone's own; on a real one, a random secret that never leaves it.
    Guarantees:
        Messages of the same words are on the same side, whatever else was typed and whenever.
    """
    marks = [_is_held_out(message, key.encode()) for message in messages]
    marked = list(zip(messages, marks, strict=True))
    return MessageSplit(
        trained=tuple(message for message, is_held_out in marked if not is_held_out),
        held_out=tuple(message for message, is_held_out in marked if is_held_out),
    )


def _is_held_out(message: str, key: bytes) -> bool:
    words = " ".join(tokenize(message)).encode()
    hasher = hashlib.blake2b(words, key=hashlib.blake2b(key).digest(), digest_size=8, person=b"held out")
    return int.from_bytes(hasher.digest(), "big") % HELD_OUT_EVERY == 0
