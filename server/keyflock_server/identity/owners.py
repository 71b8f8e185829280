"""Keyed digests, by which the store refers to users, phones and installations.

The key is the server's own (``keys.OWNER_KEY_FILE``) and lies outside the database, so that a copy of the
database alone does not tell whose row is whose and gives no access: no digest can be used as a secret.
A user or an installation has the same digest in a deleted population and in a later one of its name, so that
what is held against it outlives the deletion.
"""

import functools
import hmac
from typing import NewType

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, UserDigest
from keyflock_server.protocol.numbered_names import base_name

#: The owner of a personal model: a user, or a phone that named none. 64 hexadecimal digits.
Owner = NewType("Owner", str)


def user_digest(key: bytes, population: PopulationName, secret: str) -> UserDigest:
    """Return a population's digest of the user who has this secret."""
    return UserDigest(_digest(key, f"{base_name(population)}\nuser\n{secret}"))


def backend_user_digest(key: bytes, population: PopulationName, name: str) -> UserDigest:
    """Return a population's digest of the user to whom the app's backend gives this name.

    The name is no secret, so its digest differs from that of the same text as a secret.
    """
    return UserDigest(_digest(key, f"{base_name(population)}\nstated user\n{name}"))


def phone_owner(key: bytes, population: PopulationName, device: DeviceId) -> Owner:
    """Return the owner of the models that a phone stores while it names no user."""
    return Owner(_digest(key, f"{population}\nphone\n{device}"))


def subject_digest(key: bytes, population: PopulationName, subject: str) -> str:
    """Return a population's digest of an installation that its platform attested."""
    return _digest(key, f"{base_name(population)}\nsubject\n{subject}")


def tombstone_digest(key: bytes, digest: str) -> str:
    """Return the tombstone's digest of a user's or an installation's digest, which differs from both."""
    return _digest(key, f"tombstone\n{digest}")


def device_digest(key: bytes, device: DeviceId) -> str:
    """Return a device's digest in revocations, which outlive the device's row."""
    return _digest(key, f"device\n{device}")


def _digest(key: bytes, text: str) -> str:
    mac = _prepared(key).copy()
    # A header may hold invalid UTF-8; its digest matches nothing.
    mac.update(text.encode("utf-8", "surrogatepass"))
    return mac.hexdigest()


@functools.lru_cache(maxsize=4)
def _prepared(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")
