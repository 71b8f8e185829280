"""The secrets and the ids of a server: random, or in a simulation all decided by its seed.

Whoever knows a seed knows every secret that is made from it. So seeded secrets stay in memory and are for
servers without sockets only: ``build_server`` has no way to take them, and a data folder that a seeded server
has used is refused to every other one, because it holds a database without the secrets of that database.
"""

import hashlib
import hmac
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from keyflock_server.identity.keys import (
    SigningKeys,
    load_or_create_admin_token,
    load_or_create_owner_key,
    load_or_create_signing_keys,
)


@dataclass(frozen=True, slots=True)
class ServerSecrets:
    """What phones and others must not be able to guess."""

    keys: SigningKeys = field(repr=False)
    #: The operators' bearer token.
    admin_token: str = field(repr=False)
    #: Key of the digests that stand for owners in the store.
    owner_key: bytes = field(repr=False)
    #: Returns a new id.
    new_id: Callable[[], str] = field(repr=False)

    @property
    def api_token_key(self) -> bytes:
        """Return the key of the ids of operators' tokens, which is as lasting as ``owner_key``."""
        return hmac.digest(self.owner_key, b"keyflock api token ids", "sha256")


def secrets_in(folder: Path) -> ServerSecrets:
    """Return the secrets of a data folder, made on first use, with ids that nobody can guess.

    Raises:
        KeyFileError: fault of the operator; a secret's file cannot be used.
    """
    return ServerSecrets(
        load_or_create_signing_keys(folder),
        load_or_create_admin_token(folder),
        load_or_create_owner_key(folder),
        random_id,
    )


def seeded_secrets(seed: int) -> ServerSecrets:
    """Return secrets and ids for a simulation: the same for the same seed, in every process."""
    ids = random.Random(f"keyflock simulation ids {seed}")

    def secret(purpose: str) -> bytes:
        return hashlib.sha256(f"keyflock simulation {purpose} {seed}".encode()).digest()

    return ServerSecrets(
        SigningKeys.of(secret("signing key")),
        secret("admin token").hex(),
        secret("owner key"),
        lambda: f"{ids.getrandbits(128):032x}",
    )


def random_id() -> str:
    """Return 32 random hexadecimal digits."""
    return uuid.uuid4().hex
