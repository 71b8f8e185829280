"""What the commands share that work on a database and its blobs directly, without asking a server."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from keyflock_server.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from keyflock_server.storage.interfaces.blob_store import BlobStore
    from keyflock_server.storage.sql.store import SqlStore

T = TypeVar("T")

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="KEYFLOCK_DATABASE",
        help="URL of the database, as for serve. It holds a password: rather set KEYFLOCK_DATABASE.",
        show_default=False,
        show_envvar=False,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="KEYFLOCK_DATA_DIR",
        help="The server's data folder, when the database is in it.",
        show_default=False,
    ),
]
BlobsUrl = Annotated[
    str | None,
    typer.Option(
        "--blobs", envvar="KEYFLOCK_BLOBS", help="URL of the blobs, as for serve.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@contextmanager
def locked(data_dir: Path | None, *, is_new: bool = False) -> Iterator[None]:
    """Within it, no server runs over the data folder; a new one is made."""
    from keyflock_server.data_folder import DataFolder

    path = None if data_dir is None else data_dir.expanduser()
    folder = DataFolder.open(path) if path is not None and (is_new or path.is_dir()) else None
    try:
        yield
    finally:
        if folder is not None:
            folder.release()


def blob_store(blobs: str | None, data_dir: Path | None) -> "BlobStore":
    """Return the blob store that the options name."""
    from keyflock_server.data_folder import BLOBS_FOLDER
    from keyflock_server.storage.blobs import LocalBlobStore, blobs_at

    if blobs is not None:
        return blobs_at(blobs)
    if data_dir is None:
        raise CommandError("Where are the blobs? Give --blobs or --data-dir.", ExitCode.USAGE)
    return LocalBlobStore(data_dir.expanduser() / BLOBS_FOLDER)


async def open_existing(store: "SqlStore") -> None:
    """Open an existing database; none is created."""
    if not await store.exists():
        raise CommandError(f"There is no database ({store.name}).", ExitCode.INPUT)
    await store.open()


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    import asyncio

    return asyncio.run(main)


def existing_url(database: str | None, data_dir: Path | None) -> str:
    """Return the URL of the database that the options name; a file in the data folder must be there."""
    from keyflock_server.data_folder import DATABASE_FILE

    url = new_url(database, data_dir)
    if database is None and data_dir is not None and not (data_dir.expanduser() / DATABASE_FILE).is_file():
        file = data_dir.expanduser().absolute() / DATABASE_FILE
        raise CommandError(f"There is no database {file}.", ExitCode.INPUT)
    return url


def new_url(database: str | None, data_dir: Path | None) -> str:
    """Return the URL of the database that the options name, whether it is there or not."""
    from keyflock_server.data_folder import DATABASE_FILE

    if database is not None:
        return database
    if data_dir is None:
        raise CommandError(
            "Which database? Give --data-dir, or --database or better KEYFLOCK_DATABASE.", ExitCode.USAGE
        )
    return f"sqlite+aiosqlite:///{data_dir.expanduser().absolute() / DATABASE_FILE}"


@contextmanager
def storage_failures() -> Iterator[None]:
    """Turn what may go wrong with database and blobs into the command's message and exit code."""
    from keyflock_server.data_folder import DataFolderError
    from keyflock_server.identity.keys import KeyFileError
    from keyflock_server.storage.blob_identity import ForeignBlobs
    from keyflock_server.storage.deletion_hold import HoldTaken
    from keyflock_server.storage.errors import StorageDamaged, StorageError

    try:
        yield
    except StorageDamaged as error:
        raise CommandError(str(error), ExitCode.DAMAGED) from None
    except (ForeignBlobs, HoldTaken) as error:
        raise CommandError(str(error), ExitCode.REFUSED) from None
    except (DataFolderError, KeyFileError, StorageError) as error:
        raise CommandError(str(error), ExitCode.FAILED) from None
