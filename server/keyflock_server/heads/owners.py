"""Whose head it is: the person, when the phone named one, or else the phone; stored as a keyed digest.

Several phones share a head by naming the same person at enrolment. Nothing proves that name to this server,
so it is taken for what it is, a shared secret: it must be long enough that nobody guesses it.
"""

import hmac
from typing import Final, NewType

from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.storage.records import DeviceRecord

#: 64 hexadecimal digits.
Owner = NewType("Owner", str)
#: 128 random bits in base64url have 22 characters.
MIN_PSEUDONYM_CHARS: Final = 22


def owner_of(key: bytes, device: DeviceRecord) -> Owner:
    """The owner of the heads that this phone may read and write.

    Args:
        key: The server's own, so that a database alone does not tell whose head is whose.
        device: As enrolled.
    Raises:
        Refused: ``forbidden``; the person's pseudonym could be guessed.
    """
    if device.user is None:
        return phone_owner(key, device)
    if len(device.user) < MIN_PSEUDONYM_CHARS:
        raise Refused(
            ProblemCode.FORBIDDEN,
            f"Whoever names this user could read the head, so the name must be a secret: enrol with a random "
            f"one of at least {MIN_PSEUDONYM_CHARS} characters, or without a user.",
        )
    return _digest(key, f"{device.population}\nuser\n{device.user}")


def phone_owner(key: bytes, device: DeviceRecord) -> Owner:
    """The owner of what the phone stored before it named a person."""
    return _digest(key, f"{device.population}\nphone\n{device.id}")


def _digest(key: bytes, text: str) -> Owner:
    return Owner(hmac.digest(key, text.encode(), "sha256").hex())
