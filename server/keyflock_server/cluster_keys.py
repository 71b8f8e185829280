"""Checks that this server has the same secrets as the other servers over the same database.

A server with another signing key would refuse phones that another server has enrolled; one with another owner
key would store personal models under owners that nobody finds again. The database has a fingerprint of each
secret, from which the secret cannot be derived, and a server with other secrets does not start.
"""

import hmac
from typing import Final

from keyflock_server.identity.keys import OWNER_KEY_FILE, SIGNING_KEY_FILE, KeyFileError, SigningKeys
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.server")


class ClusterKeys:
    """Checks at start that the secrets are those of the database, and records a rotation.

    Args:
        store: The store; it must be open before the start.
        keys: This server's signing keys; after a rotation the previous key is among the retired ones.
        owner_key: This server's owner key; never rotated.
    """

    def __init__(self, store: RecordStore, keys: SigningKeys, owner_key: bytes) -> None:
        self._store = store
        self._signing = fingerprint(keys.current.secret)
        self._retired = frozenset(fingerprint(key.secret) for key in keys.retired)
        self._owner = fingerprint(owner_key)

    async def start(self) -> None:
        """Check the secrets.

        Raises:
            KeyFileError: fault of the operator; the database was used with other secrets.
        """
        there = await self._store.cluster.claim(SIGNING_KEY_FILE, self._signing)
        if there != self._signing:
            if there not in self._retired:
                raise _wrong_secret(SIGNING_KEY_FILE)
            await self._record_rotation(there)
        if await self._store.cluster.claim(OWNER_KEY_FILE, self._owner) != self._owner:
            raise _wrong_secret(OWNER_KEY_FILE)

    async def tick(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing; there is nothing to release."""

    async def _record_rotation(self, before: str) -> None:
        try:
            await self._store.cluster.replace(SIGNING_KEY_FILE, before, self._signing)
        except Superseded:
            # Another server rotated at the same time: either to the same key, or to one that is not ours.
            if await self._store.cluster.claim(SIGNING_KEY_FILE, self._signing) != self._signing:
                raise _wrong_secret(SIGNING_KEY_FILE) from None
        _log.info("the signing key was rotated; the one before still verifies")


def fingerprint(secret: bytes) -> str:
    """Return a digest that identifies a secret without revealing it."""
    return hmac.digest(secret, b"keyflock fingerprint", "sha256")[:16].hex()


def _wrong_secret(file: str) -> KeyFileError:
    return KeyFileError(
        f"The database was used with another {file} than the one in this data folder: copy the files "
        f"{SIGNING_KEY_FILE} and {OWNER_KEY_FILE} from a server that runs, or from the backup. If they are "
        "lost: keyflock db forget-keys (all phones enrol anew; stored heads are lost)."
    )
