"""Keyed digests: what the store calls users, phones and installations by.

The key is the server's own (``keys.OWNER_KEY_FILE``) and lies outside the database, so that a copy of the
database alone neither tells whose row is whose nor opens anything: no digest can be sent back as a secret.
"""

import hmac
from typing import NewType

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserDigest

#: Who a stored head belongs to: a user, or a phone that named none. 64 hexadecimal digits.
Owner = NewType("Owner", str)


def user_digest(key: bytes, population: PopulationName, secret: str) -> UserDigest:
    """Return what a population calls the user who holds ``secret``."""
    return UserDigest(_digest(key, f"{population}\nuser\n{secret}"))


def stated_user_digest(key: bytes, population: PopulationName, name: str) -> UserDigest:
    """Return what a population calls the user of whom the app's backend states that this is the name.

    The name is no secret, so its digest is never that of the same text given as a secret.
    """
    return UserDigest(_digest(key, f"{population}\nstated user\n{name}"))


def phone_owner(key: bytes, population: PopulationName, device: DeviceId) -> Owner:
    """Return the owner of what a phone stores while it names no user."""
    return Owner(_digest(key, f"{population}\nphone\n{device}"))


def subject_digest(key: bytes, population: PopulationName, subject: str) -> str:
    """Return what a population calls an installation that its platform attested."""
    return _digest(key, f"{population}\nsubject\n{subject}")


def tombstone_digest(key: bytes, digest: str) -> str:
    """Return what the tombstone of a user's or an installation's digest goes by: it is neither of them."""
    return _digest(key, f"tombstone\n{digest}")


def device_digest(key: bytes, device: DeviceId) -> str:
    """Return what a revocation calls a device, which outlives the device's row."""
    return _digest(key, f"device\n{device}")


def _digest(key: bytes, text: str) -> str:
    # A header may hold what is no UTF-8; it is the digest of nothing known.
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256").hex()
