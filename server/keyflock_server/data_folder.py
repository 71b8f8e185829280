"""The folder that a server lives in: one server at a time, and made readable for its own user alone."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

LOCK_FILE: Final = "lock"
DATABASE_FILE: Final = "keyflock.sqlite3"
BLOBS_FOLDER: Final = "blobs"
ANNOUNCEMENT_FILE: Final = "server.json"


class DataFolderError(Exception):
    """Fault of the operator: the folder cannot be used; the message says why."""


class DataFolder:
    """A locked data folder.

    Guarantees:
        No second server opens the same folder, on this machine, until ``release`` or the end of the process,
        however it ends.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the folder if need be (0700) and lock it.

        A folder that all users may enter becomes 0700, if it is empty or was a data folder before; one that
        its owner opened to a group alone (0750) stays so. Any other is not ours to close.

        Raises:
            DataFolderError: another server holds it, or the system does not let us have it.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close_to_others(path)
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderError(f"The data folder {path} cannot be used: {error.strerror}.") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            os.close(lock)
            raise DataFolderError(
                f"The data folder {path} is in use by another server (process {holder or 'unknown'})."
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        return cls(path, lock)

    @property
    def database_url(self) -> str:
        """Where the embedded database is, as SQLAlchemy says it."""
        return f"sqlite+aiosqlite:///{self.path.absolute() / DATABASE_FILE}"

    @property
    def blobs(self) -> Path:
        """Where blobs are kept."""
        return self.path / BLOBS_FOLDER

    @property
    def announcement(self) -> Path:
        """The file that says where the server listens, while it runs."""
        return self.path / ANNOUNCEMENT_FILE

    def release(self) -> None:
        """Let another server have the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Within it, what this process makes is its user's alone: database, write-ahead log, models."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _close_to_others(path: Path) -> None:
    is_ours = (path / LOCK_FILE).exists() or not any(path.iterdir())
    if is_ours and path.stat().st_mode & stat.S_IRWXO:
        path.chmod(stat.S_IRWXU)
