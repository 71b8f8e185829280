"""The keys that heads are encrypted with, from a file that the operator names.

One base64url secret of 32 bytes a line: the first encrypts, the others are retired and only decrypt. A key is
rotated by putting a new line on top (``keyflock heads add-key``) and starting the server again; it encrypts
what lies under retired keys anew, says so in its log, and then the old lines may go. The file belongs outside
the data folder: whoever has both has the heads.
"""

import base64
import binascii
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
class HeadKey:
    """One AES-256 key and the name it goes by in a row."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """The key with this secret; its name is a digest, so every replica calls it the same."""
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"A head key has {KEY_BYTES} bytes, this one has {len(secret)}.")
        return cls(hashlib.sha256(b"keyflock head key id" + secret).hexdigest()[:8], secret)


@dataclass(frozen=True, slots=True)
class HeadKeys:
    """The key that encrypts, and the retired ones that still decrypt."""

    current: HeadKey
    retired: tuple[HeadKey, ...] = ()

    def named(self, key_id: str) -> HeadKey | None:
        """The key of this name, or None when the operator has taken it out."""
        return next((key for key in (self.current, *self.retired) if key.id == key_id), None)


def read_head_keys(path: Path) -> HeadKeys:
    """The keys of a file.

    Raises:
        KeyFileError: fault of the operator; there is no file, it is open to others, or a line is no key.
    """
    try:
        require_private(path)
        text = path.read_text(encoding="ascii")
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
    return HeadKeys(keys[0], keys[1:])


def add_head_key(path: Path) -> HeadKeys:
    """Put a new key on top of a file, which is made when there is none.

    Guarantees:
        The file is whole at any moment, whatever happens meanwhile; only its owner may read it.
    Raises:
        KeyFileError: what is there cannot be used; it is left as it is.
    """
    lines = []
    if path.exists():
        read_head_keys(path)
        lines = path.read_text(encoding="ascii").split()
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
    return read_head_keys(path)


def _key(path: Path, number: int, line: str) -> HeadKey:
    try:
        return HeadKey.of(base64.b64decode(line + "=" * (-len(line) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, KeyFileError):
        raise KeyFileError(f"{path}, key {number}: not base64url of {KEY_BYTES} bytes.") from None
