"""Back to an earlier version: as a new one, so that the newest is always what phones should take.

The blobs are copied before the transaction and under keys of their own, for rows are pruned one by one and
their blobs with them. What the transaction leaves behind is deleted after it; a crash in between leaves
orphans, which are collected in time.
"""

from dataclasses import replace
from datetime import datetime

from keyflock_models.checkpoint import Checkpoint, CheckpointError
from keyflock_server.coordinator.rounds import Rounds
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.releases.model_version import VersionRecord, download_digest
from keyflock_server.rounds.round import Round
from keyflock_server.storage.door import StorageError, StorageUnavailable, Superseded


class Rollbacks:
    """Rolls populations back."""

    def __init__(self, world: Surroundings, trunk: Trunk, rounds: Rounds) -> None:
        self._world = world
        self._trunk = trunk
        self._rounds = rounds

    async def roll_back(self, name: PopulationName, to: int, reason: str) -> None:
        """Publish version ``to`` anew as the newest, and withdraw those after it.

        Edge cases:
            another version is published meanwhile -> it is withdrawn too; so are those of earlier rollbacks
        Raises:
            Refused: ``population_unknown``; ``model_unknown``; ``conflict`` for a version that was withdrawn,
                that is the newest, or whose blobs are lost or damaged. Nothing was changed.
        """
        while True:
            latest = (await self._trunk.population(name)).latest_version
            restored = await self._restored(name, to, latest)
            copy = await self._copied(restored, ModelVersion(latest + 1), reason)
            try:
                left = await self._world.store.populations.roll_back(copy, latest, reason)
            except Superseded:
                await self._rounds.delete_blobs(copy.blob_keys)
                continue
            self._world.observer.rolled_back(name, copy.version, restored.version)
            for record in left.rounds:
                self._tell(record.round, copy.created_at)
                await self._rounds.clear_up(record)
            await self._rounds.delete_blobs(left.keys)
            return

    def _tell(self, ended: Round, at: datetime) -> None:
        duration_s = (at - ended.opened_at).total_seconds()
        self._world.observer.round_ended(ended.task, ended.sequence, ended.phase, ended.reports, duration_s)

    async def _restored(self, name: PopulationName, to: int, latest: ModelVersion) -> VersionRecord:
        record = await self._trunk.any_version(name, to)
        if record.withdrawn_at is not None:
            detail = f"Version {to} was withdrawn by an earlier rollback; choose one that is served."
            raise Refused(ProblemCode.CONFLICT, detail)
        if record.version == latest:
            raise Refused(ProblemCode.CONFLICT, f"Version {to} is the newest: there is nothing to take back.")
        return record

    async def _copied(self, restored: VersionRecord, version: ModelVersion, reason: str) -> VersionRecord:
        """The new version's row, its blobs written; nothing points to them yet."""
        world = self._world
        try:
            checkpoint = await world.blobs.get(restored.checkpoint_key)
            download = await world.blobs.get(restored.download_key)
            released = None if restored.released_key is None else await world.blobs.get(restored.released_key)
            await world.workbench.run(_check_whole, restored, checkpoint, download, released)
        except StorageUnavailable:
            raise
        except StorageError:
            detail = f"The blobs of version {restored.version} are lost or damaged; nothing was changed."
            raise Refused(ProblemCode.CONFLICT, detail) from None
        folder = f"versions/{restored.population}/{version}-{world.new_id()}"
        copy = replace(
            restored,
            version=version,
            parent=restored.version,
            round_id=None,
            created_at=world.clock(),
            download_key=f"{folder}/download",
            checkpoint_key=f"{folder}/checkpoint",
            released_key=None if released is None else f"{folder}/released",
            note=f"Rolled back to {restored.version}: {reason}",
        )
        await world.blobs.put(copy.checkpoint_key, checkpoint)
        await world.blobs.put(copy.download_key, download)
        if copy.released_key is not None and released is not None:
            await world.blobs.put(copy.released_key, released)
        return copy


def _check_whole(restored: VersionRecord, checkpoint: bytes, download: bytes, released: bytes | None) -> None:
    """Raises StorageError for blobs that are not what was published."""
    is_average_whole = released is None or download_digest(released) == restored.released_digest
    if download_digest(download) != restored.download_digest or not is_average_whole:
        raise StorageError("A download is not the one that was published.")
    try:
        Checkpoint.from_bytes(checkpoint)
    except CheckpointError as error:
        raise StorageError(f"The checkpoint is damaged: {error}.") from None
