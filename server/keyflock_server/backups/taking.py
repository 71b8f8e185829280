"""Makes a backup while servers run: the rows of one moment, and every blob that they point to.

A deletion hold is taken first, then the rows are copied, then the blobs. A row points only to blobs that were
written before it, and what it points to while the hold lasts is there until the hold ends: so one pass is
enough, however busy the servers are.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from keyflock_server.audit.entry import EMPTY
from keyflock_server.backups import manifest as manifests
from keyflock_server.backups.folder import OnStep, entry_of, entry_of_bytes, new_folder
from keyflock_server.backups.manifest import (
    BLOBS_FOLDER,
    DATABASE_FILE,
    FORMAT,
    MANIFEST_FILE,
    SECRETS_FOLDER,
    AuditHeadEntry,
    FileEntry,
    Manifest,
)
from keyflock_server.backups.secret_files import write_secret
from keyflock_server.data_folder import private_files
from keyflock_server.storage.blob_identity import STORE_ID, keys_in_use, require_own_marker
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.deletion_hold import DeletionHold
from keyflock_server.storage.errors import BlobMissing, StorageDamaged, StorageUnavailable, Superseded
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.newest_backup import note_backup
from keyflock_server.storage.sql.portable_copy import (
    copy_to_file,
    make_single,
    open_copy,
    revision_of,
    row_counts,
)
from keyflock_server.storage.sql.store import SqlStore

#: Blobs that are copied at once.
_BLOBS_AT_ONCE: Final = 8


async def make_backup(
    url: str,
    store: SqlStore,
    blobs: BlobStore,
    target: Path,
    *,
    secrets: Mapping[str, bytes],
    program: str,
    new_id: Callable[[], str],
    clock: Callable[[], datetime],
    on_step: OnStep,
) -> Manifest:
    """Make a backup of a database and its blobs in a new folder.

    Args:
        url: The URL of the database.
        store: The same database.
        blobs: Its blob store.
        target: The new folder; nothing may be there but an empty folder.
        secrets: The contents of the secrets' files that go into the backup, by name.
        program: The version of this program.
        new_id: Returns ids that nobody else has.
        clock: Returns the current time, aware UTC.
        on_step: Called as it goes on.
    Guarantees:
        The rows are those of one moment, and every blob that they point to is in the backup. However the
        process ends, ``target`` is a whole backup or not there.
    Raises:
        PlaceTaken: there is something at ``target``.
        ForeignBlobs: fault of the operator; the blobs are another database's.
        HoldTaken, HoldLost: another backup is being made; this one took a pause of minutes.
        StorageDamaged: a blob that rows point to is not there.
        StorageError: the database or the blobs cannot be read, or the backup is whole and the database
            could not be told; the message says which.
    """
    await store.open()
    await require_own_marker(store, blobs)
    with private_files(), new_folder(target) as folder:
        async with DeletionHold(store.leases, new_id(), clock) as hold:
            created_at, file = clock(), folder / DATABASE_FILE
            await copy_to_file(url, file, lambda done, total: on_step("rows", done, total))
            keys, store_id, audit_head = await _facts(file)
            copied = await _copy_blobs(blobs, folder / BLOBS_FOLDER, keys, on_step)
            await hold.require()
        for name, data in secrets.items():
            write_secret(folder / SECRETS_FOLDER, name, data)
        with contextlib.closing(open_copy(file)) as copy:
            rows, schema = row_counts(copy), revision_of(copy)
        manifest = Manifest(
            format=FORMAT,
            program=program,
            created_at=created_at,
            schema=schema,
            store_id=store_id,
            database=await asyncio.to_thread(entry_of, file),
            rows=rows,
            blobs=copied,
            audit_head=audit_head,
            secrets={name: entry_of_bytes(data) for name, data in secrets.items()},
        )
        (folder / MANIFEST_FILE).write_bytes(manifests.encode(manifest))
    try:
        await note_backup(store.cluster, created_at)
    except StorageUnavailable as error:
        raise StorageUnavailable(
            f"The backup in {target} is whole, but the database could not be told, so its age is not shown: "
            f"{error}"
        ) from None
    except Superseded:
        pass  # another backup was noted in this very moment
    return manifest


async def _facts(file: Path) -> tuple[list[str], str, AuditHeadEntry | None]:
    """Return the keys of the blobs that a copy's rows point to, its identity and its audit log's head."""
    copy = SqlStore(f"sqlite+aiosqlite:///{file}")
    try:
        head = await copy.audit.head()
        last = AuditHeadEntry(sequence=head.sequence, digest=head.digest.hex())
        keys, store_id = sorted(await keys_in_use(copy)), await copy.cluster.get(STORE_ID)
        return keys, store_id or "", None if head == EMPTY else last
    finally:
        await copy.close()
        make_single(file)


async def _copy_blobs(
    blobs: BlobStore, folder: Path, keys: list[str], on_step: OnStep
) -> dict[str, FileEntry]:
    copies, entries = LocalBlobStore(folder), dict[str, FileEntry]()

    async def copy(key: str) -> FileEntry:
        data = await blobs.get(key)
        await copies.put(key, data)
        return await asyncio.to_thread(entry_of_bytes, data)

    for first in range(0, len(keys), _BLOBS_AT_ONCE):
        part = keys[first : first + _BLOBS_AT_ONCE]
        try:
            entries.update(zip(part, await asyncio.gather(*map(copy, part)), strict=True))
        except BlobMissing as missing:
            raise StorageDamaged(
                f"{missing} The database points to it. Servers delete no blob while a backup is made, so it "
                "was lost before, or somebody else deletes blobs here."
            ) from None
        on_step("blobs", len(entries), len(keys))
    return entries
