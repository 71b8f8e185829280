"""A backup is all rows of one moment and all blobs that they point to, and comes back on any back end."""

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from tests.services.postgres import PostgresServer
from tests.unit.backups.installation import SmallInstallation, restore_into, silent, sqlite_url

from keyflock_server.backups.folder import PlaceTaken, entry_of, verify
from keyflock_server.backups.manifest import DATABASE_FILE, Manifest, encode
from keyflock_server.backups.secret_files import SecretsState
from keyflock_server.storage.blob_identity import MARKER_KEY, STORE_ID, keys_in_use, open_store, read_marker
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.deletion_hold import HoldTaken
from keyflock_server.storage.errors import StorageDamaged, StorageUnavailable
from keyflock_server.storage.newest_backup import newest_backup_at
from keyflock_server.storage.sql import schema
from keyflock_server.storage.sql.cluster import SqlClusterRepository
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.portable_copy import (
    copy_to_file,
    make_single,
    open_copy,
    row_counts,
    tables_of,
)
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import SCHEMA_REVISION, cluster

NewUrl = Callable[[str], str]


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Any:  # noqa: ANN401 - a generator of a function
    """Makes the URL of an empty database, on the back end that is named."""
    made: list[str] = []

    def url(back_end: str) -> str:
        if back_end == "sqlite":
            folder = tmp_path / f"database-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return sqlite_url(folder)
        server: PostgresServer = request.getfixturevalue("postgres_server")
        made.append(server.create())
        return server.url(made[-1])

    yield url
    for name in made:
        request.getfixturevalue("postgres_server").drop(name)


@pytest.fixture
async def installed(tmp_path: Path) -> AsyncIterator[SmallInstallation]:
    installation = SmallInstallation(tmp_path / "old", sqlite_url(tmp_path / "old"))
    await installation.start()
    yield installation
    await installation.stop()


def rows_of(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows but the identity, which every database has of its own."""
    with closing(open_copy(file)) as copy:
        rows = {name: sorted(copy.execute(f"SELECT * FROM {name}"), key=repr) for name in tables_of(copy)}  # noqa: S608
    rows["cluster"] = [row for row in rows["cluster"] if row[0] != STORE_ID]
    del rows["leases"]  # they are free in the new database
    return rows


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["sqlite", "postgres"])
@pytest.mark.parametrize("target", ["sqlite", "postgres"])
async def test_every_row_and_every_blob_comes_back_on_either_back_end(
    tmp_path: Path, new_url: NewUrl, source: str, target: str
) -> None:
    old = SmallInstallation(tmp_path / "old", new_url(source))
    await old.start()
    new_place, backup = new_url(target), tmp_path / "backup"

    manifest = await old.back_up(backup)
    await old.stop()
    restored = await restore_into(backup, tmp_path / "new", new_place)

    await copy_to_file(new_place, tmp_path / "again.sqlite3", lambda _done, _total: None)
    assert rows_of(tmp_path / "again.sqlite3") == rows_of(backup / DATABASE_FILE)
    store = SqlStore(new_place)
    assert await store.leases.held("", datetime(2000, 1, 1, tzinfo=UTC)) == []
    assert (manifest.rows["devices"], manifest.rows["assignments"], manifest.rows["partials"]) == (4, 4, 1)
    blobs = LocalBlobStore(tmp_path / "new" / "blobs")
    assert await open_store(store, blobs, lambda: "c" * 32) is False
    assert await read_marker(blobs) == restored.store_id != manifest.store_id
    assert {blob.key async for blob in blobs.list_blobs()} - {MARKER_KEY} == await keys_in_use(store)
    await store.close()
    originals = files_of(tmp_path / "old" / "blobs")
    assert {key: originals[key] for key in manifest.blobs} == files_of(backup / "blobs")


async def test_a_restored_round_goes_on_where_the_backup_was_made(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    await installed.back_up(tmp_path / "backup")
    await restore_into(tmp_path / "backup", tmp_path / "new", sqlite_url(tmp_path / "new"))

    again = SmallInstallation(tmp_path / "new", sqlite_url(tmp_path / "new"))
    again.harness.numbers = itertools.count(1_000)
    await again.harness.coordinator.start()
    await again.harness.coordinator.tick()
    await again.flush()
    again.harness.pass_time(1)
    await again.harness.coordinator.tick()

    (round_,) = [one.round for one in await again.store.rounds.list_by_task("t")][:1]  # type: ignore[arg-type]  # its name
    assert (round_.counted, round_.result_version) == (8, 1)
    assert await again.harness.model(1) is not None
    await again.stop()


class BlobsThatMove:
    """The blobs of an installation whose open round is flushed before the first of them is copied."""

    def __init__(self, installation: SmallInstallation) -> None:
        self._blobs = installation.blobs
        self._installation = installation
        self._has_moved = False
        self.name = self._blobs.name
        self.put, self.create = self._blobs.put, self._blobs.create
        self.delete, self.list_blobs = self._blobs.delete, self._blobs.list_blobs

    async def get(self, key: str) -> bytes:
        if key != MARKER_KEY and not self._has_moved:
            self._has_moved = True
            await self._installation.flush()
        return await self._blobs.get(key)


async def test_a_blob_that_is_replaced_while_the_backup_is_made_is_in_it(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    before = await keys_in_use(installed.store)

    manifest = await installed.back_up(tmp_path / "backup", blobs=BlobsThatMove(installed))

    after = await keys_in_use(installed.store)
    assert len(before - after) == 1
    assert manifest.blobs.keys() == before
    assert verify(tmp_path / "backup", silent) == manifest


async def test_without_the_hold_that_blob_is_missed_and_there_is_no_backup(tmp_path: Path) -> None:
    careless = SmallInstallation(tmp_path / "old", sqlite_url(tmp_path / "old"), is_holding=False)
    await careless.start()

    with pytest.raises(StorageDamaged, match="The database points to it"):
        await careless.back_up(tmp_path / "backup", blobs=BlobsThatMove(careless))

    await careless.stop()
    assert names_in(tmp_path) == ["old"]


async def test_a_second_backup_at_once_is_refused(installed: SmallInstallation, tmp_path: Path) -> None:
    await installed.store.leases.acquire("backup", "another", 300.0, installed.harness.now)

    with pytest.raises(HoldTaken, match="try again after"):
        await installed.back_up(tmp_path / "backup")

    await installed.store.leases.release("backup", "another")
    await installed.back_up(tmp_path / "backup")


@pytest.mark.parametrize("step", ["rows", "blobs"])
async def test_an_interrupted_backup_leaves_nothing(
    installed: SmallInstallation, tmp_path: Path, step: str
) -> None:
    loop = asyncio.get_running_loop()

    def interrupt(what: str, _done: int, _total: int) -> None:
        if what == step:
            loop.call_soon_threadsafe(making.cancel)

    making = asyncio.create_task(installed.back_up(tmp_path / "backup", on_step=interrupt))
    with pytest.raises(asyncio.CancelledError):
        await making

    assert names_in(tmp_path) == ["old"]
    await installed.back_up(tmp_path / "backup")  # the hold is released


async def test_a_whole_backup_is_noted_in_the_store_and_one_that_fails_is_not(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    cluster_values = installed.store.cluster
    never = await newest_backup_at(cluster_values)

    manifest = await installed.back_up(tmp_path / "first")
    noted = await newest_backup_at(cluster_values)
    installed.harness.pass_time(60)
    with pytest.raises(PlaceTaken):
        await installed.back_up(tmp_path / "first")
    after_failure = await newest_backup_at(cluster_values)
    second = await installed.back_up(tmp_path / "second")

    assert never is None
    assert noted == after_failure == manifest.created_at
    assert await newest_backup_at(cluster_values) == second.created_at > manifest.created_at


async def test_a_whole_backup_that_the_database_cannot_be_told_of_stays_and_says_so(
    installed: SmallInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> str:
        raise StorageUnavailable("The database is away.")

    monkeypatch.setattr(SqlClusterRepository, "claim", fail)

    with pytest.raises(StorageUnavailable, match=r"is whole, but .* its age is not shown: The database is"):
        await installed.back_up(tmp_path / "backup")

    assert verify(tmp_path / "backup", silent).rows["devices"] == 4


async def test_a_backup_replaces_nothing(installed: SmallInstallation, tmp_path: Path) -> None:
    await installed.back_up(tmp_path / "backup")

    with pytest.raises(PlaceTaken, match="name a new folder"):
        await installed.back_up(tmp_path / "backup")

    verify(tmp_path / "backup", silent)


async def test_secrets_are_in_it_only_where_they_were_asked_for(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    secrets = {"signing_key": b"s" * 43 + b"\n", "owner_key": b"o" * 43 + b"\n", "admin_token": b"token\n"}
    await installed.back_up(tmp_path / "without")
    await installed.back_up(tmp_path / "with", secrets=secrets)

    await restore_into(tmp_path / "with", tmp_path / "new", sqlite_url(tmp_path / "new"))

    assert not (tmp_path / "without" / "secrets").exists()
    for folder in (tmp_path / "with" / "secrets", tmp_path / "new"):
        for name, secret in secrets.items():
            assert (folder / name).read_bytes() == secret
            assert (folder / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "with").stat().st_mode & 0o077 == 0


async def test_a_restore_says_whether_the_data_folder_has_the_databases_secrets(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    await installed.store.cluster.claim("signing_key", "a fingerprint")
    await installed.back_up(tmp_path / "backup")
    (tmp_path / "others").mkdir()
    for name in ("signing_key", "owner_key"):
        (tmp_path / "others" / name).write_text("x" * 43)
        (tmp_path / "others" / name).chmod(0o600)

    found = [
        (await restore_into(tmp_path / "backup", tmp_path / name, sqlite_url(tmp_path / name))).secrets
        for name in ("missing", "others")
    ]

    assert found == [SecretsState.MISSING, SecretsState.OTHERS]


async def test_the_copied_rows_of_sqlite_need_no_file_beside_them(
    installed: SmallInstallation, tmp_path: Path
) -> None:
    await installed.back_up(tmp_path / "backup")

    with closing(sqlite3.connect(tmp_path / "backup" / DATABASE_FILE)) as database:
        mode = database.execute("PRAGMA journal_mode").fetchone()[0]

    assert names_in(tmp_path / "backup") == ["blobs", "database.sqlite3", "manifest.json"]
    assert mode == "delete"


@pytest.mark.parametrize("target", ["sqlite", "postgres"])
async def test_a_backup_of_an_earlier_schema_comes_back_at_that_schema_and_is_upgraded_then(
    tmp_path: Path, new_url: NewUrl, target: str
) -> None:
    before = f"{int(SCHEMA_REVISION) - 1:04}"
    backup, place = tmp_path / "backup", new_url(target)
    backup.mkdir()
    await written_at(before, backup)

    restored = await restore_into(backup, tmp_path / "new", place)

    engine = engine_for(place, "keyflock db")
    done = await schema.upgrade(engine)
    await engine.dispose()
    store = SqlStore(place)
    await store.open()
    assert restored.needs_upgrade
    assert done == schema.Upgraded(before, SCHEMA_REVISION)
    assert await store.cluster.get(STORE_ID) == restored.store_id
    await store.close()


async def written_at(revision: str, backup: Path) -> None:
    """Write a backup as the release of that schema would have made it, of a database without blobs."""
    engine = engine_for(f"sqlite+aiosqlite:///{backup / DATABASE_FILE}")
    async with engine.begin() as connection:
        await connection.run_sync(schema.create_at, revision)
        await connection.execute(insert(cluster).values(name=STORE_ID, value="a" * 32))
    await engine.dispose()
    make_single(backup / DATABASE_FILE)
    with closing(open_copy(backup / DATABASE_FILE)) as copy:
        rows = row_counts(copy)
    manifest = Manifest(
        format=1,
        program="0.9",
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
        schema=revision,
        store_id="a" * 32,
        database=entry_of(backup / DATABASE_FILE),
        rows=rows,
        blobs={},
    )
    (backup / "manifest.json").write_bytes(encode(manifest))
