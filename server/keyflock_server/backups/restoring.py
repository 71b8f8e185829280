"""Restores a backup into an empty place: everything is verified first, and the database comes last.

So a restore that is interrupted leaves a place without a database, over which no server starts, and the same
restore may be run again. The restored database gets an identity of its own, which its blobs are marked with:
the database that was backed up may still be running elsewhere, with blobs that are not this one's.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyflock_server.backups.folder import OnStep, PlaceTaken, sync, verify
from keyflock_server.backups.manifest import BLOBS_FOLDER, DATABASE_FILE, SECRETS_FOLDER, Manifest
from keyflock_server.backups.secret_files import (
    SecretsState,
    state_of_secrets,
    write_secret,
)
from keyflock_server.identity.keys import OWNER_KEY_FILE, SIGNING_KEY_FILE
from keyflock_server.storage.blob_identity import MARKER_KEY, adopt
from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.sql.portable_copy import copy_from_file, database_at, open_copy
from keyflock_server.storage.sql.schema import require_known
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import SCHEMA_REVISION

_BLOBS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a backup is restored to."""

    #: The URL of a database that is empty or not there.
    url: str
    blobs: BlobStore
    #: The data folder of the server, for its secrets; None: they are not restored.
    data_dir: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore left."""

    manifest: Manifest
    #: The new identity of the database.
    store_id: str
    secrets: SecretsState

    @property
    def needs_upgrade(self) -> bool:
        """Whether ``keyflock db upgrade`` comes before the first start."""
        return self.manifest.schema != SCHEMA_REVISION


async def restore(folder: Path, place: Place, new_id: Callable[[], str], on_step: OnStep) -> Restored:
    """Verify a backup and restore it.

    Args:
        folder: The backup's folder.
        place: Where to; no server may run there.
        new_id: Returns ids that nobody else has.
        on_step: Called as it goes on.
    Guarantees:
        Nothing is written before every byte of the backup has been verified and the place found empty.
    Raises:
        BackupMissing, BackupDamaged: the backup cannot be used.
        PlaceTaken: fault of the operator; there is something already. Nothing was changed.
        StorageError: fault of the operator or the machine; run it again.
    """
    manifest = await asyncio.to_thread(verify, folder, on_step)
    require_known(manifest.schema)
    secrets = {name: (folder / SECRETS_FOLDER / name).read_bytes() for name in manifest.secrets}
    await _require_empty(place, manifest, secrets)
    if place.data_dir is not None:
        for name, data in secrets.items():
            try:
                write_secret(place.data_dir, name, data)
            except OSError as error:
                raise StorageUnavailable(
                    f"{place.data_dir / name} cannot be written: {error.strerror}. There is no database yet; "
                    "run it again once there is room."
                ) from None
        sync(place.data_dir)
    await _restore_blobs(folder, place.blobs, list(manifest.blobs), on_step)
    store_id, file = new_id(), folder / DATABASE_FILE
    await copy_from_file(file, place.url, store_id, lambda done, total: on_step("rows", done, total))
    store = SqlStore(place.url)
    try:
        await adopt(store, place.blobs, lambda: store_id)
    except StorageUnavailable as error:
        raise StorageUnavailable(
            "Database and blobs are restored, but for the mark that they belong together, which a server "
            f"writes when it starts: {error}"
        ) from None
    finally:
        await store.close()
    return Restored(
        manifest=manifest, store_id=store_id, secrets=state_of_secrets(place.data_dir, _fingerprints(file))
    )


async def _require_empty(place: Place, manifest: Manifest, secrets: dict[str, bytes]) -> None:
    if (found := await database_at(place.url)) is not None:
        raise PlaceTaken(
            f"There is a database already ({found}). A backup is restored into an empty place: name another "
            "data folder or database, or move this one away. Nothing was changed."
        )
    keys = {blob.key async for blob in place.blobs.list_blobs()}
    # What an interrupted restore of the same backup has left is not marked yet.
    if MARKER_KEY in keys or not keys <= manifest.blobs.keys():
        raise PlaceTaken(
            f"The blob store {place.blobs.name} is not empty: it has {len(keys)} blobs. A backup is restored "
            "into an empty place (--blobs). Nothing was changed."
        )
    for name, data in secrets.items():
        path = None if place.data_dir is None else place.data_dir / name
        if path is not None and path.exists() and path.read_bytes() != data:
            raise PlaceTaken(
                f"{path} is another secret than the backup's. Move it away if no other database needs it. "
                "Nothing was changed."
            )


async def _restore_blobs(folder: Path, blobs: BlobStore, keys: list[str], on_step: OnStep) -> None:
    async def copy(key: str) -> None:
        await blobs.put(key, await asyncio.to_thread((folder / BLOBS_FOLDER / key).read_bytes))

    for first in range(0, len(keys), _BLOBS_AT_ONCE):
        part = keys[first : first + _BLOBS_AT_ONCE]
        await asyncio.gather(*map(copy, part))
        on_step("blobs", first + len(part), len(keys))


def _fingerprints(file: Path) -> dict[str, str]:
    query = "SELECT name, value FROM cluster WHERE name IN (?, ?)"
    with contextlib.closing(open_copy(file)) as copy:
        return dict(copy.execute(query, (SIGNING_KEY_FILE, OWNER_KEY_FILE)).fetchall())
