"""Device tokens that are void though they have not expired: refreshed, revoked, or of a forgotten device.

Every token has a generation, which grows with each refresh of its device. One entry a device says from which
generation down its tokens are void. Entries vanish when the last such token has expired by itself, so that
memory holds one entry (about 300 bytes) for each device that refreshed, was revoked or was forgotten within
the life of a token.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import device_digest
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.problems import ProblemCode, Refused

#: Above the generation of any token: what a forgotten device's revocation says.
ALL_GENERATIONS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Revoked:
    generation: int
    effective_at: datetime
    until: datetime


class Revocations:
    """Knows which device tokens are void. One process's memory of what the store says.

    Args:
        owner_key: Of the devices' digests, at most 64 bytes.
    """

    def __init__(self, owner_key: bytes) -> None:
        self._owner_key = owner_key
        self._revoked: dict[bytes, _Revoked] = {}

    def __len__(self) -> int:
        return len(self._revoked)

    def digest(self, device: DeviceId) -> str:
        """Return what revocations call a device."""
        return device_digest(self._owner_key, device)

    def learn(self, digest: str, generation: int, effective_at: datetime, until: datetime) -> None:
        """Take a revocation in; an older one of the same device changes nothing.

        Args:
            digest: The device's.
            generation: Tokens below this are void at once.
            effective_at: Tokens of this generation itself are void from then on.
            until: When the last of these tokens has expired by itself.
        """
        key, new = bytes.fromhex(digest), _Revoked(generation, effective_at, until)
        known = self._revoked.get(key)
        if known is None or _order(new) >= _order(known):
            self._revoked[key] = new

    def check(self, identity: DeviceIdentity, now: datetime) -> None:
        """Pass a device token that is not void.

        Raises:
            Refused: fault of the client; ``token_invalid``.
        """
        if self._is_void(identity, now):
            raise void_token()

    def drop_expired(self, now: datetime) -> None:
        """Forget what says nothing any more."""
        for key in [key for key, one in self._revoked.items() if one.until <= now]:
            del self._revoked[key]

    def _is_void(self, identity: DeviceIdentity, now: datetime) -> bool:
        if not self._revoked:
            return False
        known = self._revoked.get(bytes.fromhex(self.digest(identity.device)))
        return known is not None and is_void(identity.generation, known.generation, known.effective_at, now)


def is_void(generation: int, revoked: int, effective_at: datetime, now: datetime) -> bool:
    """Return whether a token of ``generation`` is void: its successor was used, or its grace is over."""
    return generation < revoked or (generation == revoked and now >= effective_at)


def void_token() -> Refused:
    """Return the refusal of a token that was good once."""
    return Refused(
        ProblemCode.TOKEN_INVALID,
        "This token is void: refreshed or revoked, or its device was forgotten. Enrol anew without it.",
    )


def _order(revoked: _Revoked) -> tuple[int, float]:
    """Rank a device's revocations: the later generation says more, and then the sooner end."""
    return revoked.generation, -revoked.effective_at.timestamp()
