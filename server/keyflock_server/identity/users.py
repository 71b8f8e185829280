"""Authenticates a phone's user, by a secret that the app holds or by a statement of the app's backend.

An unproven claim groups no devices. The proof itself is never stored or quoted; the store has keyed digests
(``owners``).
"""

from dataclasses import dataclass, field
from datetime import datetime

from keyflock_server.identity.owners import backend_user_digest, user_digest
from keyflock_server.identity.user_secrets import RULE, is_secret
from keyflock_server.identity.user_statements import UserKey, verified_user_name
from keyflock_server.protocol.identifiers import PopulationName, UserDigest
from keyflock_server.protocol.problems import ApiError, ProblemCode


@dataclass(frozen=True, slots=True)
class ProvenUser:
    """An authenticated user; the same in all populations."""

    name: str = field(repr=False)
    #: Whether the name comes from the app's backend; else it is the secret itself.
    is_from_backend: bool


class Users:
    """Authenticates the users that phones name.

    Args:
        owner_key: The key of the digests, at most 64 bytes.
        keys: Public keys of the app's backend. If there are any, only its statements name a user.
    """

    def __init__(self, owner_key: bytes, keys: tuple[UserKey, ...] = ()) -> None:
        self._owner_key = owner_key
        self._keys = keys

    def authenticate(self, text: str, now: datetime) -> ProvenUser:
        """Return the user that a phone names at enrolment.

        Raises:
            ApiError: fault of the client; ``user_not_proven``. The detail quotes nothing of the text.
        """
        if self._keys:
            name = verified_user_name(self._keys, text, now)
            if name is None:
                raise _not_proven(
                    "This server takes a user by a signed statement of the app's backend alone, and this is "
                    "none that it can check, or one that has expired."
                )
            return ProvenUser(name, is_from_backend=True)
        if not is_secret(text):
            raise _not_proven(f"A user is named by a secret that nobody can guess: {RULE}.")
        return ProvenUser(text, is_from_backend=False)

    def authenticate_stored(self, text: str | None, now: datetime) -> ProvenUser:
        """Return the user that a phone already has; also a secret from before the server had backend keys.

        Raises:
            ApiError: fault of the client; ``user_not_proven``.
        """
        if text is None:
            raise _not_proven("This needs the secret or the statement of the user that the device has now.")
        return ProvenUser(text, is_from_backend=False) if is_secret(text) else self.authenticate(text, now)

    def digest(self, population: PopulationName, user: ProvenUser) -> UserDigest:
        """Return the user's digest in one population."""
        digest = backend_user_digest if user.is_from_backend else user_digest
        return digest(self._owner_key, population, user.name)

    def is_same(self, population: PopulationName, known: UserDigest, text: str | None, now: datetime) -> bool:
        """Return whether ``text`` proves the user whose digest is known.

        A secret that is_secret would refuse today is accepted here, so that its user can change it.
        """
        if text is None:
            return False
        if known == user_digest(self._owner_key, population, text):
            return True
        name = verified_user_name(self._keys, text, now)
        return name is not None and known == backend_user_digest(self._owner_key, population, name)


def _not_proven(detail: str) -> ApiError:
    return ApiError(ProblemCode.USER_NOT_PROVEN, detail)
