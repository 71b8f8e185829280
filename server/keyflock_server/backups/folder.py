"""A backup's folder on the disk: files with their digests, and whether they are what the manifest says."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from keyflock_server.backups import manifest as manifests
from keyflock_server.backups.manifest import DATABASE_FILE, MANIFEST_FILE, FileEntry, Manifest, ManifestError
from keyflock_server.data_folder import DATABASE_FILE as LIVE_DATABASE
from keyflock_server.identity.keys import SIGNING_KEY_FILE
from keyflock_server.storage.errors import StorageError, StorageUnavailable
from keyflock_server.storage.sql.portable_copy import open_copy, revision_of, row_counts

_DATA_FOLDER_FILES: Final = (LIVE_DATABASE, SIGNING_KEY_FILE)
#: Called with what is being done, how much of it is done, and how much there is: bytes, rows, pages or blobs.
OnStep = Callable[[str, int, int], None]


class BackupMissing(StorageError):
    """The folder holds no whole backup of a format that this release reads."""


class BackupDamaged(StorageError):
    """Files of the backup are not what its manifest says.

    Args:
        folder: The backup's folder.
        problems: One line for each file.
    """

    def __init__(self, folder: Path, problems: list[str]) -> None:
        super().__init__(f"The backup {folder} is damaged: nothing was restored from it. Take another one.")
        self.problems = tuple(problems)


class PlaceTaken(StorageError):
    """A backup is made into a new folder, and restored into an empty place; nothing was changed."""


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``target`` when the block succeeds, and is removed when it fails.

    Guarantees:
        Whenever the process or the machine ends, ``target`` is whole or not there.
    Raises:
        PlaceTaken: there is something at ``target`` already, or it is in a server's data folder.
        StorageUnavailable: the disk is full or read-only; nothing is left there.
    """
    around = target.absolute().resolve().parents
    # Where the database is elsewhere, the folder has the keys.
    home = next((one for one in around if any((one / name).exists() for name in _DATA_FOLDER_FILES)), None)
    if home is not None:
        raise PlaceTaken(
            f"{target} is in the data folder {home}, and would be lost with it: name a folder elsewhere, "
            "best on another disk."
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PlaceTaken(f"{target} is there already: name a new folder for the backup.")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".unfinished", dir=target.parent))
    try:
        with _writing(target):
            yield folder
            _finish(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(
            f"The backup {target} cannot be written: {error.strerror}. Nothing of it was left there."
        ) from None


def _finish(folder: Path, target: Path) -> None:
    """Sync all files and give the folder its name."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
    folder.rename(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Have a file or a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def entry_of(path: Path) -> FileEntry:
    """Return the size and the digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest)


def entry_of_bytes(data: bytes) -> FileEntry:
    """Return the size and the digest of bytes."""
    return FileEntry(size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_manifest(folder: Path) -> Manifest:
    """Return a backup's manifest; raises BackupMissing."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BackupMissing(f"{folder} is no backup: it has no {MANIFEST_FILE}, which is written last.")
    try:
        return manifests.decode(path.read_bytes())
    except ManifestError as error:
        raise BackupMissing(f"{path} cannot be used: {error}.") from None


def verify(folder: Path, on_step: OnStep) -> Manifest:
    """Read every byte of a backup, and return its manifest if all are what it says.

    Raises:
        BackupMissing: there is no manifest of this format.
        BackupDamaged: files are missing, damaged, truncated or another backup's.
    """
    manifest = read_manifest(folder)
    problems, done = [], 0
    for name, expected in manifest.files.items():
        if problem := _problem(folder / name, expected):
            problems.append(f"{name}: {problem}")
        done += expected.size_bytes
        on_step("verifying", done, manifest.size_bytes)
    if not problems:
        problems = [f"{DATABASE_FILE}: {problem}" for problem in _problems_of_rows(folder, manifest)]
    if problems:
        raise BackupDamaged(folder, problems)
    return manifest


def _problem(path: Path, expected: FileEntry) -> str:
    try:
        found = entry_of(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found.size_bytes != expected.size_bytes:
        return f"has {found.size_bytes} bytes, and had {expected.size_bytes}"
    return "" if found == expected else "has other bytes than it had"


def _problems_of_rows(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield what does not fit between the manifest and the rows, which only a wrong manifest can be."""
    try:
        with contextlib.closing(open_copy(folder / DATABASE_FILE)) as copy:
            if revision_of(copy) != manifest.schema:
                yield f"has schema {revision_of(copy)}, the manifest says {manifest.schema}"
            if row_counts(copy) != manifest.rows:
                yield "has other numbers of rows than the manifest says"
    except sqlite3.Error as error:
        yield f"cannot be read ({error})"
