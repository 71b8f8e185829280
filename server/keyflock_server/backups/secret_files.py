"""The secrets of a data folder in a backup: in it only where the operator asked for them.

They are the files that a server makes for itself. The file of the head keys is the operator's own and is
never in a backup: one that is stolen with all secrets still opens no personal model.
"""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from keyflock_server.cluster_keys import fingerprint
from keyflock_server.identity.keys import (
    ADMIN_TOKEN_FILE,
    OWNER_KEY_FILE,
    SIGNING_KEY_FILE,
    KeyFileError,
    load_or_create_owner_key,
    load_or_create_signing_keys,
    require_private,
)

SECRET_FILES: Final = (SIGNING_KEY_FILE, OWNER_KEY_FILE, ADMIN_TOKEN_FILE)


class SecretsState(StrEnum):
    """Whether a data folder has the secrets that a database was used with."""

    #: They are there, and the database's own.
    FIT = "fit"
    #: A server would make new ones, and refuse the database with them.
    MISSING = "missing"
    #: They are another database's.
    OTHERS = "others"


def read_secrets(folder: Path) -> dict[str, bytes]:
    """Return the secrets of a data folder by file name.

    Raises:
        KeyFileError: fault of the operator; one is missing, or open to others than its owner.
    """
    found = {}
    for name in SECRET_FILES:
        path = folder / name
        if not path.is_file():
            raise KeyFileError(
                f"There is no {path}: a server makes it at its first start. Name its data folder."
            )
        require_private(path)
        found[name] = path.read_bytes()
    return found


def write_secret(folder: Path, name: str, data: bytes) -> None:
    """Write a secret that only its owner may read (0600); the file is whole or not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = folder / f".{name}.unfinished"
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / name)


def state_of_secrets(folder: Path | None, fingerprints: Mapping[str, str]) -> SecretsState:
    """Compare the secrets in a data folder with the fingerprints that a database has of its own.

    Args:
        folder: The data folder; None: it is not known, so its secrets are missing.
        fingerprints: The database's fingerprints by file name; none where no server ever used it.
    """
    names = [name for name in (SIGNING_KEY_FILE, OWNER_KEY_FILE) if name in fingerprints]
    if not names:
        return SecretsState.FIT
    if folder is None or not all((folder / name).is_file() for name in names):
        return SecretsState.MISSING
    try:
        signing, owner_key = load_or_create_signing_keys(folder), load_or_create_owner_key(folder)
    except KeyFileError:
        return SecretsState.OTHERS  # the server says at its start what is wrong with the file
    known = {
        SIGNING_KEY_FILE: {fingerprint(key.secret) for key in (signing.current, *signing.retired)},
        OWNER_KEY_FILE: {fingerprint(owner_key)},
    }
    fits = all(fingerprints[name] in known[name] for name in names)
    return SecretsState.FIT if fits else SecretsState.OTHERS
