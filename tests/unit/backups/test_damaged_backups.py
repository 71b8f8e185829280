"""What is not a whole backup, and what is not an empty place, is refused before anything is written."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.backups.installation import SmallInstallation, restore_into, silent, sqlite_url

from keyflock_server.backups.folder import BackupDamaged, BackupMissing, PlaceTaken, entry_of, verify
from keyflock_server.backups.manifest import DATABASE_FILE, MANIFEST_FILE
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.errors import StorageError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole backup, with secrets; no test changes it."""
    folder = tmp_path_factory.mktemp("whole")

    async def back_up() -> None:
        installation = SmallInstallation(folder / "old", sqlite_url(folder / "old"))
        await installation.start()
        secrets = {"signing_key": b"s" * 43, "owner_key": b"o" * 43, "admin_token": b"t" * 43}
        await installation.back_up(folder / "backup", secrets=secrets)
        await installation.stop()

    asyncio.run(back_up())
    return folder / "backup"


@pytest.fixture
def backup(whole: Path, tmp_path: Path) -> Path:
    """A copy of the backup, for a test to damage."""
    return shutil.copytree(whole, tmp_path / "backup")


def blobs_in(backup: Path) -> list[Path]:
    return sorted(path for path in (backup / "blobs").rglob("*") if path.is_file())


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def swapped(one: Path, other: Path) -> None:
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a changed blob": (lambda backup: flipped(blobs_in(backup)[0]), "other bytes"),
    "a truncated blob": (lambda backup: truncated(blobs_in(backup)[0]), "bytes, and had"),
    "a missing blob": (lambda backup: blobs_in(backup)[0].unlink(), "is missing"),
    "swapped blobs": (lambda backup: swapped(*blobs_in(backup)[:2]), "blobs/"),
    "a changed database": (lambda backup: flipped(backup / DATABASE_FILE), "other bytes"),
    "a truncated database": (lambda backup: truncated(backup / DATABASE_FILE), "bytes, and had"),
    "a missing database": (lambda backup: (backup / DATABASE_FILE).unlink(), "is missing"),
    "a changed secret": (lambda backup: flipped(backup / "secrets" / "owner_key"), "other bytes"),
    "a missing secret": (lambda backup: (backup / "secrets" / "owner_key").unlink(), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_backup_is_refused_with_the_names_of_its_files(
    backup: Path, tmp_path: Path, damage: str
) -> None:
    act, problem = DAMAGES[damage]
    act(backup)

    with pytest.raises(BackupDamaged) as refused:
        await restore_into(backup, tmp_path / "new", sqlite_url(tmp_path / "new"))

    assert any(problem in line for line in refused.value.problems)
    assert list((tmp_path / "new").rglob("*")) == [tmp_path / "new" / "blobs"]  # made by whoever names it


async def test_files_of_two_backups_do_not_pass_for_one(backup: Path, tmp_path: Path) -> None:
    other = SmallInstallation(tmp_path / "other", sqlite_url(tmp_path / "other"))
    await other.start()
    await other.flush()
    await other.back_up(tmp_path / "second")
    await other.stop()
    shutil.copy(tmp_path / "second" / DATABASE_FILE, backup / DATABASE_FILE)

    with pytest.raises(BackupDamaged):
        verify(backup, silent)


def manifest_with(backup: Path, **changes: Any) -> None:  # noqa: ANN401 - a manifest's fields
    path = backup / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


BAD_MANIFESTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (lambda backup: (backup / MANIFEST_FILE).unlink(), "written last"),
    "a truncated one": (lambda backup: truncated(backup / MANIFEST_FILE), "it is no manifest"),
    "an empty one": (lambda backup: (backup / MANIFEST_FILE).write_bytes(b""), "it is no manifest"),
    "one of a later format": (lambda backup: manifest_with(backup, format=2), "it has format 2"),
    "one without a field": (lambda backup: manifest_with(backup, rows=None), "it is no manifest"),
    "one that names a file outside": (
        lambda backup: manifest_with(backup, blobs={"../x": {"size_bytes": 1, "sha256": "0" * 64}}),
        "files outside",
    ),
    "one with an absolute name": (
        lambda backup: manifest_with(backup, blobs={"/etc/x": {"size_bytes": 1, "sha256": "0" * 64}}),
        "files outside",
    ),
    "one with a file of the data folder that is no secret": (
        lambda backup: manifest_with(backup, secrets={"lock": {"size_bytes": 1, "sha256": "0" * 64}}),
        "files outside",
    ),
    "one with a secret outside": (
        lambda backup: manifest_with(backup, secrets={"../x": {"size_bytes": 1, "sha256": "0" * 64}}),
        "files outside",
    ),
}


@pytest.mark.parametrize("change", BAD_MANIFESTS)
def test_a_folder_without_a_good_manifest_is_no_backup(backup: Path, change: str) -> None:
    act, reason = BAD_MANIFESTS[change]
    act(backup)

    with pytest.raises(BackupMissing, match=reason):
        verify(backup, silent)


def test_a_manifest_that_fits_its_files_and_not_their_rows_is_refused(backup: Path) -> None:
    manifest_with(backup, rows={"devices": 3}, schema="0001")

    with pytest.raises(BackupDamaged) as refused:
        verify(backup, silent)

    assert len(refused.value.problems) == 2


async def test_a_backup_of_a_later_release_is_refused(backup: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(backup / DATABASE_FILE)) as rows, rows:
        rows.execute("UPDATE alembic_version SET version_num = '9999'")
    entry = msgspec.to_builtins(entry_of(backup / DATABASE_FILE))
    manifest_with(backup, schema="9999", database=entry)

    with pytest.raises(StorageError, match="which a newer release made"):
        await restore_into(backup, tmp_path / "new", sqlite_url(tmp_path / "new"))


@pytest.mark.parametrize(
    "there", ["a database", "a log of a database", "another blob", "a marker", "another secret"]
)
async def test_a_place_that_is_not_empty_is_left_as_it_is(backup: Path, tmp_path: Path, there: str) -> None:
    new = tmp_path / "new"
    new.mkdir()
    blobs = LocalBlobStore(new / "blobs")
    match there:
        case "a database":
            shutil.copy(backup / DATABASE_FILE, new / "keyflock.sqlite3")
        case "a log of a database":
            (new / "keyflock.sqlite3-wal").write_bytes(b"what SQLite would write into the restored file")
        case "another blob":
            await blobs.put("versions/another", b"blob")
        case "a marker":
            await blobs.put("identity", b'{"store_id": "a"}')
        case _:
            (new / "owner_key").write_bytes(b"another")
    before = {path: path.read_bytes() for path in new.rglob("*") if path.is_file()}

    with pytest.raises(PlaceTaken, match=r"Nothing was changed\."):
        await restore_into(backup, new, sqlite_url(new))

    assert {path: path.read_bytes() for path in new.rglob("*") if path.is_file()} == before


async def test_a_restore_that_was_interrupted_is_run_again(backup: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    shutil.copytree(backup / "blobs", new / "blobs")
    shutil.copy(backup / "secrets" / "owner_key", new / "owner_key")
    (new / "keyflock.sqlite3.unfinished").write_bytes(b"half of it")

    await restore_into(backup, new, sqlite_url(new))

    assert (new / "keyflock.sqlite3").is_file()
    assert not (new / "keyflock.sqlite3.unfinished").exists()
