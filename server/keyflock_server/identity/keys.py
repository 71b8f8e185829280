"""The secrets of a server, created on first use and stored in its data folder.

``signing_key`` holds one base64url secret per line: the first signs, the others are retired and only verify,
so that a key is rotated by putting a new line on top. ``admin_token`` is the operator's bearer token.
``owner_key`` is the key of the digests that stand for owners of personal models; it is never rotated, because
no owner would match any more. Only the server's user may read the files (0600). No secret is ever logged or
shown by ``repr``.
"""

import base64
import binascii
import codecs
import hashlib
import hmac
import os
import secrets
import shlex
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

SIGNING_KEY_FILE: Final = "signing_key"
ADMIN_TOKEN_FILE: Final = "admin_token"  # noqa: S105 - the name of a file, not a secret
OWNER_KEY_FILE: Final = "owner_key"
SECRET_BYTES: Final = 32
_OTHERS: Final = 0o077


class KeyFileError(Exception):
    """Fault of the operator: a secret's file cannot be used as it is."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One HMAC secret, and the id by which a token's header refers to it."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """Make a key from its secret; its id is a digest, so it is the same in every replica."""
        if len(secret) < SECRET_BYTES:
            raise KeyFileError(
                f"A signing key needs at least {SECRET_BYTES} bytes, this one has {len(secret)}."
            )
        return cls(hashlib.sha256(b"keyflock key id" + secret).hexdigest()[:8], secret)


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The key that signs, and the retired keys that still verify."""

    current: SigningKey
    retired: tuple[SigningKey, ...] = ()

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """Make signing keys from one secret, without retired ones."""
        return cls(SigningKey.of(secret))

    def derived(self, purpose: str) -> bytes:
        """Return a secret of 32 bytes for another purpose, from which the signing key cannot be derived."""
        return hmac.digest(self.current.secret, f"keyflock {purpose}".encode(), "sha256")


def require_private(path: Path) -> None:
    """Raise unless only its owner can read a secret's file: 0600, or stricter.

    Raises:
        KeyFileError: fault of the operator; the message holds the command that mends it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        raise KeyFileError(
            f"{path} is open to others than its owner (mode {mode:04o}), and holds a secret. "
            f"Close it: chmod 600 {shlex.quote(str(path))}"
        )


def load_or_create_signing_keys(folder: Path) -> SigningKeys:
    """Return the signing keys of a data folder; the first call creates one.

    Raises:
        KeyFileError: the file is open to others, or a line is not base64url of at least 32 bytes.
    """
    path = folder / SIGNING_KEY_FILE
    text = _load_or_create(path, _base64url(secrets.token_bytes(SECRET_BYTES)))
    keys = tuple(_signing_key(path, number, line) for number, line in enumerate(text.split(), start=1))
    return SigningKeys(keys[0], keys[1:])


def load_or_create_admin_token(folder: Path) -> str:
    """Return the operator's bearer token of a data folder; the first call creates one.

    Raises:
        KeyFileError: the file is open to others, or it is empty.
    """
    return _load_or_create(folder / ADMIN_TOKEN_FILE, secrets.token_urlsafe(SECRET_BYTES)).strip()


def load_or_create_owner_key(folder: Path) -> bytes:
    """Return the key of the owners' digests; the first call creates it.

    Raises:
        KeyFileError: the file is open to others, or it is not base64url of at least 32 bytes.
    """
    path = folder / OWNER_KEY_FILE
    text = _load_or_create(path, _base64url(secrets.token_bytes(SECRET_BYTES)))
    return _signing_key(path, 1, text.strip()).secret


def read_owner_key(folder: Path) -> bytes | None:
    """Return the key of the owners' digests; None if no server has created one.

    Raises:
        KeyFileError: the same as for ``load_or_create_owner_key``.
    """
    return load_or_create_owner_key(folder) if (folder / OWNER_KEY_FILE).exists() else None


def _signing_key(path: Path, number: int, line: str) -> SigningKey:
    try:
        return SigningKey.of(base64.b64decode(line + "=" * (-len(line) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, KeyFileError):
        raise KeyFileError(f"{path}, key {number}: not base64url of at least {SECRET_BYTES} bytes.") from None


def _base64url(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _load_or_create(path: Path, fresh: str) -> str:
    """Return the file's text; write ``fresh`` if it is missing. Of two servers that start, one wins."""
    if not path.exists():
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(fresh + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)  # fails when another server was first; its file is used then
        except FileExistsError:
            pass
        finally:
            Path(name).unlink()
    require_private(path)
    try:
        text = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("ascii")
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not a text file.") from None
    if not text.strip():
        raise KeyFileError(f"{path} is empty; remove it and a new one is made.")
    return text
