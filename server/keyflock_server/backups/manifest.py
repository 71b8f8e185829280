"""The manifest of a backup: what is in its folder, byte for byte, and what it was made of.

It is written last, so a folder without one is no backup. Its digests find damage, and files of another
backup; they do not prove who made it.
"""

from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from keyflock_server.backups.secret_files import SECRET_FILES

#: The version of a backup's format; another one is refused.
FORMAT: Final = 1
MANIFEST_FILE: Final = "manifest.json"
DATABASE_FILE: Final = "database.sqlite3"
BLOBS_FOLDER: Final = "blobs"
SECRETS_FOLDER: Final = "secrets"

Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Bytes = Annotated[int, Meta(ge=0)]


class ManifestError(ValueError):
    """The file is no manifest of this format; the message says why."""


class FileEntry(Struct, frozen=True, kw_only=True):
    """The size and the digest of one file."""

    size_bytes: Bytes
    sha256: Sha256


class AuditHeadEntry(Struct, frozen=True, kw_only=True):
    """The last entry of the audit chain."""

    sequence: int
    digest: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    format: int
    #: The version of the program that made it.
    program: str
    created_at: datetime
    #: The revision of the database's schema.
    schema: str
    #: The identity of the database, which its blob store's marker names.
    store_id: str
    #: The file with all rows.
    database: FileEntry
    #: The number of rows in each table.
    rows: dict[str, int]
    #: The blobs that rows point to, by key.
    blobs: dict[str, FileEntry]
    #: None where nothing was audited yet.
    audit_head: AuditHeadEntry | None = None
    #: The files of the secrets by name; empty in a backup without secrets.
    secrets: dict[str, FileEntry] = {}

    @property
    def files(self) -> dict[str, FileEntry]:
        """Return all files by their path within the folder."""
        blobs = {f"{BLOBS_FOLDER}/{key}": entry for key, entry in self.blobs.items()}
        secrets = {f"{SECRETS_FOLDER}/{name}": entry for name, entry in self.secrets.items()}
        return {DATABASE_FILE: self.database, **blobs, **secrets}

    @property
    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(entry.size_bytes for entry in self.files.values())


def encode(manifest: Manifest) -> bytes:
    """Return a manifest as JSON, with a line for each file."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Return the manifest that the bytes hold.

    Raises:
        ManifestError: the bytes are no manifest, are of another format, or name files outside the backup.
    """
    try:
        if (found := msgspec.json.decode(data, type=_Format).format) != FORMAT:
            raise ManifestError(f"it has format {found}, this release reads {FORMAT}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ManifestError(f"it is no manifest: {error}") from None
    if not all(map(_stays_inside, manifest.blobs)) or not manifest.secrets.keys() <= set(SECRET_FILES):
        raise ManifestError("it names files outside the backup")
    return manifest


class _Format(Struct):
    format: int


def _stays_inside(key: str) -> bool:
    parts = PurePosixPath(key).parts
    return bool(parts) and key == "/".join(parts) and not {"/", "..", "."} & set(parts) and key.isprintable()
