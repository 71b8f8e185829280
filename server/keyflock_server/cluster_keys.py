"""Whether this server has the secrets of the other servers over the same database.

A server with another signing key would turn away phones that its neighbour let in; one with another owner key
would store heads under names that nobody finds again. The database keeps a fingerprint of each, from which
the secret cannot be found, and a server that has other secrets does not start.
"""

import hmac
from typing import Final

from keyflock_server.identity.keys import OWNER_KEY_FILE, SIGNING_KEY_FILE, KeyFileError, SigningKeys
from keyflock_server.storage.door import Store, Superseded
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.server")


class ClusterKeys:
    """Checks at start that the secrets are those of the database, and follows a rotation.

    Args:
        store: Opened before this is started.
        keys: Of this server; a rotation is known by the key before, which is retired and still in the file.
        owner_key: Of this server; never rotated.
    """

    def __init__(self, store: Store, keys: SigningKeys, owner_key: bytes) -> None:
        self._store = store
        self._signing = fingerprint(keys.current.secret)
        self._retired = frozenset(fingerprint(key.secret) for key in keys.retired)
        self._owner = fingerprint(owner_key)

    async def start(self) -> None:
        """Check.

        Raises:
            KeyFileError: fault of the operator; the database was used with other secrets.
        """
        there = await self._store.cluster.claim(SIGNING_KEY_FILE, self._signing)
        if there != self._signing:
            if there not in self._retired:
                raise _other(SIGNING_KEY_FILE)
            await self._follow_rotation(there)
        if await self._store.cluster.claim(OWNER_KEY_FILE, self._owner) != self._owner:
            raise _other(OWNER_KEY_FILE)

    async def tick(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def _follow_rotation(self, before: str) -> None:
        try:
            await self._store.cluster.replace(SIGNING_KEY_FILE, before, self._signing)
        except Superseded:
            # Another server rotated at the same time: to the same key, or it is not one of ours.
            if await self._store.cluster.claim(SIGNING_KEY_FILE, self._signing) != self._signing:
                raise _other(SIGNING_KEY_FILE) from None
        _log.info("the signing key was rotated; the one before still verifies")


def fingerprint(secret: bytes) -> str:
    """What tells one secret from another, and no more."""
    return hmac.digest(secret, b"keyflock fingerprint", "sha256")[:16].hex()


def _other(file: str) -> KeyFileError:
    return KeyFileError(
        f"The database was used with another {file} than the one in this data folder: copy the files "
        f"{SIGNING_KEY_FILE} and {OWNER_KEY_FILE} from a server that runs, or from the backup. If they are "
        "lost: keyflock db forget-keys (all phones enrol anew; stored heads are lost)."
    )
