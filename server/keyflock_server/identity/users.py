"""Who a phone's user is: proven by a secret that the app holds, or by a statement of the app's backend.

A bare claim proves nothing, so it groups no devices. What proved the user is never stored or repeated; the
store has keyed digests (``owners``).
"""

from dataclasses import dataclass, field
from datetime import datetime

from keyflock_server.identity.owners import stated_user_digest, user_digest
from keyflock_server.identity.user_secrets import RULE, is_secret
from keyflock_server.identity.user_statements import UserKey, stated_name
from keyflock_server.protocol.identifiers import PopulationName, UserDigest
from keyflock_server.protocol.problems import ProblemCode, Refused


@dataclass(frozen=True, slots=True)
class ProvenUser:
    """A user of all populations."""

    name: str = field(repr=False)
    #: Whether the app's backend says so; else the name is the secret itself.
    is_stated: bool


class Users:
    """Judges what phones say of their users.

    Args:
        owner_key: Of the digests, at most 64 bytes.
        keys: Public keys of the app's backend. With any, only its statements name a user.
    """

    def __init__(self, owner_key: bytes, keys: tuple[UserKey, ...] = ()) -> None:
        self._owner_key = owner_key
        self._keys = keys

    def named(self, text: str, now: datetime) -> ProvenUser:
        """Return the user that a phone names at enrolment.

        Raises:
            Refused: fault of the client; ``user_not_proven``. The detail repeats nothing of the text.
        """
        if self._keys:
            name = stated_name(self._keys, text, now)
            if name is None:
                raise _not_proven(
                    "This server takes a user by a signed statement of the app's backend alone, and this is "
                    "none that it can check, or one that has expired."
                )
            return ProvenUser(name, is_stated=True)
        if not is_secret(text):
            raise _not_proven(f"A user is named by a secret that nobody can guess: {RULE}.")
        return ProvenUser(text, is_stated=False)

    def remembered(self, text: str | None, now: datetime) -> ProvenUser:
        """Return the user that a phone proves to have; a secret from before there were keys is good too.

        Raises:
            Refused: fault of the client; ``user_not_proven``.
        """
        if text is None:
            raise _not_proven("This needs the secret or the statement of the user that the device has now.")
        return ProvenUser(text, is_stated=False) if is_secret(text) else self.named(text, now)

    def digest(self, population: PopulationName, user: ProvenUser) -> UserDigest:
        """Return what the store calls the user in one population."""
        digest = stated_user_digest if user.is_stated else user_digest
        return digest(self._owner_key, population, user.name)

    def is_same(self, population: PopulationName, known: UserDigest, text: str | None, now: datetime) -> bool:
        """Return whether ``text`` proves the user whose digest is known.

        A name from before names were judged is good enough to leave it for another.
        """
        if text is None:
            return False
        if known == user_digest(self._owner_key, population, text):
            return True
        name = stated_name(self._keys, text, now)
        return name is not None and known == stated_user_digest(self._owner_key, population, name)


def _not_proven(detail: str) -> Refused:
    return Refused(ProblemCode.USER_NOT_PROVEN, detail)
