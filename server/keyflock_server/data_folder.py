"""A server's data folder: used by one server at a time, and readable only by its own user."""

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
        """Create the folder if it is missing (0700) and lock it.

        A folder that all users may enter becomes 0700, if it is empty or was a data folder before; one that
        its owner opened to a group only (0750) stays so. The mode of any other folder is not changed.

        Raises:
            DataFolderError: another server has locked it, or the system denies access.
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
        """Return SQLAlchemy's URL of the SQLite database in this folder."""
        return f"sqlite+aiosqlite:///{self.path.absolute() / DATABASE_FILE}"

    @property
    def blobs(self) -> Path:
        """Return the folder of the blobs."""
        return self.path / BLOBS_FOLDER

    @property
    def announcement(self) -> Path:
        """Return the path of the file that says where the running server listens."""
        return self.path / ANNOUNCEMENT_FILE

    def release(self) -> None:
        """Unlock the folder for another server."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Within it, only this process's user may read the files that it creates: database, log, models."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _close_to_others(path: Path) -> None:
    is_ours = (path / LOCK_FILE).exists() or not any(path.iterdir())
    if is_ours and path.stat().st_mode & stat.S_IRWXO:
        path.chmod(stat.S_IRWXU)
