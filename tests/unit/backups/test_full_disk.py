"""A disk that gets full while a backup is made or restored leaves nothing that looks whole, and says why."""

import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from tests.unit.backups.installation import SmallInstallation, restore_into, silent, sqlite_url

from keyflock_server.backups import folder, restoring, taking
from keyflock_server.backups.folder import PlaceTaken, verify
from keyflock_server.identity.keys import SIGNING_KEY_FILE
from keyflock_server.storage.blob_identity import adopt, open_store, read_marker
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql.store import SqlStore

SECRETS = {"owner_key": b"k" * 32}


@contextmanager
def full_disk() -> Iterator[None]:
    """The kernel lets this process write no byte into any file."""
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def on_full_disk(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function, for which the disk is full."""

    @wraps(function)
    def call(*args: object, **options: object) -> object:
        with full_disk():
            return function(*args, **options)

    @wraps(function)
    async def call_async(*args: object, **options: object) -> object:
        with full_disk():
            return await function(*args, **options)

    return call_async if iscoroutinefunction(function) else call


@pytest.fixture
async def installed(tmp_path: Path) -> AsyncIterator[SmallInstallation]:
    installation = SmallInstallation(tmp_path / "old", sqlite_url(tmp_path / "old"))
    await installation.start()
    yield installation
    await installation.stop()


def names_in(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("step", ["copy_to_file", "_copy_blobs", "write_secret", "manifests.encode"])
async def test_a_backup_for_which_the_disk_gets_full_at_any_step_leaves_nothing_and_says_so(
    installed: SmallInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as full:
        if step == "manifests.encode":
            full.setattr(Path, "write_bytes", on_full_disk(Path.write_bytes))
        else:
            full.setattr(taking, step, on_full_disk(getattr(taking, step)))
        with pytest.raises(StorageError) as refused:
            await installed.back_up(tmp_path / "backup", secrets=SECRETS)

    assert "cannot be written: " in str(refused.value)
    assert names_in(tmp_path) == ["old"]
    await installed.flush()  # the servers go on
    await installed.back_up(tmp_path / "backup", secrets=SECRETS)
    assert verify(tmp_path / "backup", silent).rows["devices"] == 8


async def test_a_backup_that_cannot_be_synced_does_not_get_its_name(
    installed: SmallInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(folder, "sync", fail)
        with pytest.raises(StorageError, match="cannot be written: No space left on device"):
            await installed.back_up(tmp_path / "backup")

    assert names_in(tmp_path) == ["old"]


async def test_a_backup_into_a_data_folder_is_refused_before_anything_is_read(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "old")
    before = names_in(tmp_path / "old")

    for target in (tmp_path / "old" / "backup", tmp_path / "link" / "deep" / "backup"):
        with pytest.raises(PlaceTaken, match=r"is in the data folder .*old, .* elsewhere"):
            await installed.back_up(target)

    assert names_in(tmp_path / "old") == before

    beside_postgresql = tmp_path / "keys"
    beside_postgresql.mkdir()
    (beside_postgresql / SIGNING_KEY_FILE).touch()
    with pytest.raises(PlaceTaken, match="is in the data folder"):
        await installed.back_up(beside_postgresql / "backup")


@pytest.mark.parametrize("step", ["write_secret", "_restore_blobs", "copy_from_file"])
async def test_a_restore_for_which_the_disk_gets_full_leaves_no_database_and_is_run_again(
    installed: SmallInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await installed.back_up(tmp_path / "backup", secrets=SECRETS)
    new = tmp_path / "new"
    new.mkdir()

    with monkeypatch.context() as full:
        full.setattr(restoring, step, on_full_disk(getattr(restoring, step)))
        with pytest.raises(StorageError, match=r"cannot be written: |cannot be used now: "):
            await restore_into(tmp_path / "backup", new, sqlite_url(new))
    is_begun = "keyflock.sqlite3" in names_in(new)
    restored = await restore_into(tmp_path / "backup", new, sqlite_url(new))

    assert not is_begun
    assert restored.manifest.rows["devices"] == 4


async def test_a_restore_whose_disk_gets_full_at_the_very_end_says_that_a_server_does_the_rest(
    installed: SmallInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await installed.back_up(tmp_path / "backup")
    new = tmp_path / "new"
    new.mkdir()

    with monkeypatch.context() as full:
        full.setattr(restoring, "adopt", on_full_disk(adopt))
        with pytest.raises(StorageError, match=r"are restored, but for the mark .* when it starts"):
            await restore_into(tmp_path / "backup", new, sqlite_url(new))
    store, blobs = SqlStore(sqlite_url(new)), LocalBlobStore(new / "blobs")

    assert await open_store(store, blobs, lambda: "c" * 32)
    assert await read_marker(blobs) == "b" * 32
    await store.close()
