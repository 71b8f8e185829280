"""A small installation to back up: a population, a task, an open round with a sum, and an enrolled user."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from tests.unit.coordinator.harness import LAYOUT, CoordinatorHarness, report

from keyflock_server.backups.folder import OnStep
from keyflock_server.backups.manifest import Manifest
from keyflock_server.backups.restoring import Place, Restored, restore
from keyflock_server.backups.taking import make_backup
from keyflock_server.protocol.problems import ApiError
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.deletion_hold import HoldingBlobStore
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.sql.store import SqlStore


def silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


def sqlite_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'keyflock.sqlite3'}"


@dataclass
class SmallInstallation:
    """A server's store and blobs, with a coordinator that works on them."""

    folder: Path
    url: str
    #: Whether its deletions heed a backup, as every server's do.
    is_holding: bool = True

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.store = SqlStore(self.url)
        self.blobs: BlobStore = LocalBlobStore(self.folder / "blobs")
        if self.is_holding:
            self.blobs = HoldingBlobStore(self.blobs, self.store.leases, lambda: self.harness.now)
        self.harness = CoordinatorHarness(datetime.now(UTC), store=self.store, blobs=self.blobs)

    async def start(self) -> None:
        """Open a round of eight, four of whose reports are in its sum."""
        await self.harness.coordinator.start()
        await self.harness.create_population()
        await self.harness.task(round="goal = 8")
        await self.flush()

    async def flush(self) -> None:
        """Count four more reports, which replaces the open round's sum."""
        for number in range(4):
            claims = await self.harness.assigned(await self.harness.enrol())
            delta = np.full(LAYOUT.size, 0.25 + number, np.float32)
            try:
                await self.harness.coordinator.reports.report(claims, report(delta, of=claims))
            except ApiError:
                assert number < 3  # it waits for the others

    async def stop(self) -> None:
        await self.harness.coordinator.stop()
        await self.store.close()

    async def back_up(
        self,
        target: Path,
        *,
        blobs: BlobStore | None = None,
        secrets: Mapping[str, bytes] | None = None,
        on_step: OnStep = silent,
    ) -> Manifest:
        """Make a backup as another process would."""
        store = SqlStore(self.url)
        try:
            return await make_backup(
                self.url,
                store,
                blobs or self.blobs,
                target,
                secrets=secrets or {},
                program="1.2.3",
                new_id=lambda: "backup",
                clock=lambda: self.harness.now,
                on_step=on_step,
            )
        finally:
            await store.close()


async def restore_into(backup: Path, folder: Path, url: str, new_id: str = "b" * 32) -> Restored:
    """Restore a backup into this folder and database."""
    place = Place(url=url, blobs=LocalBlobStore(folder / "blobs"), data_dir=folder)
    return await restore(backup, place, lambda: new_id, silent)
