"""A rollback publishes an earlier version as a new one, so that phones can always take the newest.

The blobs are copied under keys of their own before the transaction, because rows are pruned one by one and
their blobs with them. Superseded blobs are deleted after it; a crash in between leaves orphans, which are
collected in time.
"""

from dataclasses import replace
from datetime import datetime

from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.rounds.round import Round
from keyflock_server.storage.errors import StorageError, StorageUnavailable, Superseded


class RollbackService:
    """Rolls populations back."""

    def __init__(self, deps: Dependencies, models: ModelStore, rounds: RoundDriver) -> None:
        self._deps = deps
        self._models = models
        self._rounds = rounds

    async def roll_back(self, name: PopulationName, to: int, reason: str, audit: AuditContext) -> None:
        """Publish version ``to`` anew as the newest, and withdraw those after it.

        Edge cases:
            another version is published meanwhile -> it is withdrawn too; so are those of earlier rollbacks
        Raises:
            ApiError: ``population_unknown``; ``model_unknown``; ``conflict`` for a version that was
                withdrawn, that is the newest, or whose blobs are lost or damaged. Nothing was changed.
        """
        while True:
            latest = (await self._models.population(name)).latest_version
            restored = await self._find_restored(name, to, latest)
            copy = await self._copy_version(restored, ModelVersion(latest + 1), reason)
            try:
                left = await self._deps.store.populations.roll_back(copy, latest, reason, audit=audit)
            except Superseded:
                await self._rounds.delete_blobs(copy.blob_keys)
                continue
            self._models.forget_rows()
            self._deps.observer.rolled_back(name, copy.version, restored.version)
            for record in left.rounds:
                self._report_end(record.round, copy.created_at)
                await self._rounds.delete_leftovers(record)
            await self._rounds.delete_blobs(left.keys)
            return

    def _report_end(self, ended: Round, at: datetime) -> None:
        duration_s = (at - ended.opened_at).total_seconds()
        self._deps.observer.round_ended(ended.task, ended.sequence, ended.phase, ended.reports, duration_s)

    async def _find_restored(self, name: PopulationName, to: int, latest: ModelVersion) -> VersionRecord:
        record = await self._models.any_version(name, to)
        if record.withdrawn_at is not None:
            detail = f"Version {to} was withdrawn by an earlier rollback; choose one that is served."
            raise ApiError(ProblemCode.CONFLICT, detail)
        if record.version == latest:
            raise ApiError(
                ProblemCode.CONFLICT, f"Version {to} is the newest: there is nothing to take back."
            )
        return record

    async def _copy_version(
        self, restored: VersionRecord, version: ModelVersion, reason: str
    ) -> VersionRecord:
        """Write the blobs of the new version and return its row; no row points to them yet."""
        deps = self._deps
        try:
            checkpoint = await deps.blobs.get(restored.checkpoint_key)
            download = await deps.blobs.get(restored.download_key)
            released = None if restored.released_key is None else await deps.blobs.get(restored.released_key)
            await deps.closing.run(_check_intact, restored, checkpoint, download, released)
        except StorageUnavailable:
            raise
        except StorageError:
            detail = f"The blobs of version {restored.version} are lost or damaged; nothing was changed."
            raise ApiError(ProblemCode.CONFLICT, detail) from None
        folder = f"versions/{restored.population}/{version}-{deps.new_id()}"
        copy = replace(
            restored,
            version=version,
            parent=restored.version,
            round_id=None,
            created_at=deps.clock(),
            download_key=f"{folder}/download",
            checkpoint_key=f"{folder}/checkpoint",
            released_key=None if released is None else f"{folder}/released",
            note=f"Rolled back to {restored.version}: {reason}",
        )
        await deps.blobs.put(copy.checkpoint_key, checkpoint)
        await deps.blobs.put(copy.download_key, download)
        if copy.released_key is not None and released is not None:
            await deps.blobs.put(copy.released_key, released)
        return copy


def _check_intact(
    restored: VersionRecord, checkpoint: bytes, download: bytes, released: bytes | None
) -> None:
    """Raise StorageError for blobs that are not what was published."""
    is_average_whole = released is None or download_digest(released) == restored.released_digest
    if download_digest(download) != restored.download_digest or not is_average_whole:
        raise StorageError("A download is not the one that was published.")
    try:
        Checkpoint.from_bytes(checkpoint)
    except CheckpointError as error:
        raise StorageError(f"The checkpoint is damaged: {error}.") from None
