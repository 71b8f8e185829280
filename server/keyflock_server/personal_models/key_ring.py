"""The keys that personal models are encrypted with, from a file that the operator names.

The file has one base64url secret of 32 bytes per line: the first encrypts, the others are retired and only
decrypt. To rotate a key, put a new line on top (``keyflock heads add-key``) and restart the server; it
encrypts the models under retired keys anew, says so in its log, and then the old lines may be removed. Keep
the file outside the data folder: the two together give access to the models.
"""

import base64
import binascii
import codecs
import hashlib
import os
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from keyflock_server.identity.keys import KeyFileError, require_private

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """One AES-256 key, and the id by which rows refer to it."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """Make a key from its secret; its id is a digest, so it is the same in every replica."""
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"A head key has {KEY_BYTES} bytes, this one has {len(secret)}.")
        return cls(hashlib.sha256(b"keyflock head key id" + secret).hexdigest()[:8], secret)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The key that encrypts, and the retired keys that still decrypt."""

    current: EncryptionKey
    retired: tuple[EncryptionKey, ...] = ()

    def find(self, key_id: str) -> EncryptionKey | None:
        """Return the key with this id, or None when the operator has removed it."""
        return next((key for key in (self.current, *self.retired) if key.id == key_id), None)


def read_key_ring(path: Path) -> KeyRing:
    """Return the keys of a file.

    Raises:
        KeyFileError: fault of the operator; there is no file, others can read it, or a line is not a key.
    """
    try:
        require_private(path)
        text = _text(path)
    except OSError as error:
        raise KeyFileError(
            f"The head keys in {path} cannot be read: {error.strerror}. "
            f"Make them: keyflock heads add-key {path}"
        ) from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not a text file.") from None
    keys = tuple(_key(path, number, line) for number, line in enumerate(text.split(), start=1))
    if not keys:
        raise KeyFileError(f"{path} holds no key. Make one: keyflock heads add-key {path}")
    return KeyRing(keys[0], keys[1:])


def add_encryption_key(path: Path) -> KeyRing:
    """Put a new key on top of a file, which is created if it is missing.

    Guarantees:
        The file is complete at any moment, even after a crash; only its owner may read it.
    Raises:
        KeyFileError: the existing file cannot be used; it is left as it is.
    """
    lines = []
    if path.exists():
        read_key_ring(path)
        lines = _text(path).split()
    fresh = base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).rstrip(b"=").decode()
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from the start
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write("\n".join((fresh, *lines)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return read_key_ring(path)


def _text(path: Path) -> str:
    return path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("ascii")


def _key(path: Path, number: int, line: str) -> EncryptionKey:
    try:
        return EncryptionKey.of(
            base64.b64decode(line + "=" * (-len(line) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError, KeyFileError):
        raise KeyFileError(f"{path}, key {number}: not base64url of {KEY_BYTES} bytes.") from None
