"""Device tokens that are void before they expire: refreshed, revoked, or of a forgotten device.

Every token has a generation, which grows with each refresh of its device. One entry per device says up to
which generation its tokens are void. An entry is dropped when the last such token has expired by itself, so
memory holds one entry (about 300 bytes) for each device that refreshed, was revoked or was forgotten within
the lifetime of a token.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import device_digest
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.problems import ApiError, ProblemCode

#: Larger than the generation of any token; the revocation of a forgotten device has it.
ALL_GENERATIONS: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Revoked:
    generation: int
    effective_at: datetime
    until: datetime


class Revocations:
    """Knows which device tokens are void: one process's copy of the revocations in the store.

    Args:
        owner_key: The key of the devices' digests, at most 64 bytes.
    """

    def __init__(self, owner_key: bytes) -> None:
        self._owner_key = owner_key
        self._revoked: dict[bytes, _Revoked] = {}

    def __len__(self) -> int:
        return len(self._revoked)

    def digest(self, device: DeviceId) -> str:
        """Return a device's digest in revocations."""
        return device_digest(self._owner_key, device)

    def record(self, digest: str, generation: int, effective_at: datetime, until: datetime) -> None:
        """Record a revocation; an older one of the same device changes nothing.

        Args:
            digest: The device's digest.
            generation: Tokens below this are void at once.
            effective_at: Tokens of this generation itself are void from then on.
            until: When the last of these tokens has expired by itself.
        """
        key, new = bytes.fromhex(digest), _Revoked(generation, effective_at, until)
        known = self._revoked.get(key)
        if known is None or _order(new) >= _order(known):
            self._revoked[key] = new

    def check(self, identity: DeviceIdentity, now: datetime, key: bytes | None = None) -> bytes | None:
        """Raise if a device token is void.

        Args:
            identity: What the token says.
            now: The time, aware UTC.
            key: What an earlier call has returned for this device.
        Returns:
            The key under which the device is looked up, which makes the next check of it cheaper; None if it
            was not needed.
        Raises:
            ApiError: fault of the client; ``token_invalid``.
        """
        if not self._revoked:
            return key
        key = key or bytes.fromhex(self.digest(identity.device))
        known = self._revoked.get(key)
        if known is not None and is_void(identity.generation, known.generation, known.effective_at, now):
            raise void_token()
        return key

    def drop_expired(self, now: datetime) -> None:
        """Drop the revocations whose tokens have all expired."""
        for key in [key for key, one in self._revoked.items() if one.until <= now]:
            del self._revoked[key]


def is_void(generation: int, revoked: int, effective_at: datetime, now: datetime) -> bool:
    """Return whether a token of ``generation`` is void: its successor was used, or its grace is over."""
    return generation < revoked or (generation == revoked and now >= effective_at)


def void_token() -> ApiError:
    """Return the error for a void token."""
    return ApiError(
        ProblemCode.TOKEN_INVALID,
        "This token is void: refreshed or revoked, or its device was forgotten. Enrol anew without it.",
    )


def _order(revoked: _Revoked) -> tuple[int, float]:
    """Return a sort key: the later generation wins, and then the earlier effect."""
    return revoked.generation, -revoked.effective_at.timestamp()
