"""The model store reads and writes model versions: the downloads of phones, and the master weights.

Downloads are immutable, so the last few are cached in memory.
"""

import asyncio
import json
import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, assert_never

from cachetools import LRUCache

from keyflock_models.arrays import F32
from keyflock_models.evaluation.paired_scores import paired_layout
from keyflock_models.network.anchor import anchor_tokens
from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_server.aggregation.population_personalisation import (
    PopulationPersonalisation,
    personalisation_from_json,
)
from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release, TaskKind
from keyflock_server.protocol.numbered_names import next_id
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.model_version import Download, VersionRecord, package
from keyflock_server.releases.stages import bucket_of, is_in_stage
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.errors import AlreadyExists, StorageError
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.records import PopulationRecord

_MAX_CACHED_DOWNLOADS: Final = 8
_MAX_CACHED_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """The blob keys of a new version, before any row points to them."""

    checkpoint_key: str
    download_key: str
    download: Download


class _AnchorMeasurement(NamedTuple):
    """The size of an anchor text and version 0's loss on it; None without an anchor text."""

    tokens: int | None = None
    loss: float | None = None


class ModelStore:
    """Reads and writes the shared models of all populations."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        #: Versions that were read since the pass began: another process may withdraw one.
        self._versions: LRUCache[tuple[PopulationName, int], VersionRecord] = LRUCache(_MAX_CACHED_ROWS)
        #: Ids of populations by the names that phones call them, read since the pass began.
        self._ids: LRUCache[str, PopulationName] = LRUCache(_MAX_CACHED_ROWS)
        #: Whether populations are archived, read since the pass began.
        self._archived: LRUCache[PopulationName, bool] = LRUCache(_MAX_CACHED_ROWS)
        #: What populations' keyboards are served, read since the pass began.
        self._releases: LRUCache[PopulationName, ReleaseRecord] = LRUCache(_MAX_CACHED_ROWS)
        self._downloads: LRUCache[str, Download] = LRUCache(_MAX_CACHED_DOWNLOADS)
        self._layouts: dict[str, ParamLayout] = {}
        self._vocabularies: dict[str, bytes] = {}
        #: Held while a blob is read into the cache: a thousand phones that ask at once cost one read.
        self._read_lock = asyncio.Lock()

    async def create_population(
        self, name: PopulationName, checkpoint: bytes, *, audit: AuditContext
    ) -> PopulationRecord:
        """Create a population whose version 0 is this checkpoint.

        Raises:
            ApiError: ``invalid_checkpoint``; ``conflict`` when a population has, or had, this name.
        """
        deps = self._deps
        try:
            loaded = await deps.closing.run(Checkpoint.from_bytes, checkpoint)
        except CheckpointError as error:
            raise ApiError(ProblemCode.INVALID_CHECKPOINT, f"{error}") from None
        id_ = await self._free_id(name)
        now = deps.clock()
        anchor = await deps.closing.run(_measure_anchor, loaded)
        stored = await self.write_version(id_, ModelVersion(0), loaded, checkpoint)
        population = PopulationRecord(
            name=id_,
            current_name=None if id_ == name else name,
            created_at=now,
            latest_version=ModelVersion(0),
            config_json=json.dumps(loaded.config.to_dict()),
            vocabulary_digest=loaded.vocabulary.digest,
            anchor_tokens=anchor.tokens,
            anchor_loss_chosen=anchor.loss,
        )
        version = VersionRecord(
            population=id_,
            version=ModelVersion(0),
            parent=None,
            round_id=None,
            created_at=now,
            download_digest=stored.download.digest,
            download_bytes=len(stored.download.body),
            download_key=stored.download_key,
            checkpoint_key=stored.checkpoint_key,
            anchor_loss=anchor.loss,
        )
        try:
            await deps.store.populations.add(population, version, audit=audit)
        except AlreadyExists:
            raise _population_exists(name) from None
        self.forget_rows()  # the name may have been another population's
        return population

    async def _free_id(self, name: PopulationName) -> PopulationName:
        """Return the id of the next population of this name; raises ApiError ``conflict``."""
        populations = self._deps.store.populations
        if await populations.resolve(name) is not None:
            raise _population_exists(name)
        if (id_ := next_id(name, await populations.ids_of(name))) is None:
            detail = f"The name {name!r} was used before, and is too long for a number; choose another one."
            raise ApiError(ProblemCode.CONFLICT, detail)
        return id_

    async def write_version(
        self, name: PopulationName, version: ModelVersion, checkpoint: Checkpoint, data: bytes | None = None
    ) -> StoredVersion:
        """Write a version's blobs; no row points to them yet."""
        deps = self._deps
        if data is None:
            data = await deps.closing.run(checkpoint.to_bytes)
        layout = ParamLayout.for_config(checkpoint.config)
        download = await deps.closing.run(package, checkpoint.weights, layout)
        folder = f"versions/{name}/{version}-{deps.new_id()}"
        stored = StoredVersion(f"{folder}/checkpoint", f"{folder}/download", download)
        await deps.blobs.put(stored.checkpoint_key, data)
        await deps.blobs.put(stored.download_key, download.body)
        return stored

    async def population_names(self) -> list[PopulationName]:
        """Return the ids of all populations, in order."""
        return [record.name for record in await self._deps.store.populations.all()]

    async def resolve(self, name: str) -> PopulationName:
        """Return the id of the population of this name, present or former; raises ``population_unknown``."""
        id_ = await self._deps.store.populations.resolve(name)
        if id_ is None:
            raise population_unknown()
        return id_

    async def resolve_for_phone(self, name: str) -> PopulationName:
        """Return the same as ``resolve``, perhaps as it was at the last pass.

        A name stays its population's for as long as that exists, and nothing is written for a deleted one.
        """
        if (known := self._ids.get(name)) is None:
            ids = self._ids
            known = ids[name] = await self.resolve(name)
        return known

    async def population(self, name: PopulationName) -> PopulationRecord:
        """Return the population of this id; raises ApiError ``population_unknown``."""
        record = await self._deps.store.populations.get(name)
        if record is None:
            raise population_unknown()
        return record

    async def is_archived(self, name: PopulationName) -> bool:
        """Return whether a population takes no new devices, perhaps as it was at the last pass."""
        if (known := self._archived.get(name)) is None:
            archived = self._archived
            known = archived[name] = (await self.population(name)).archived_at is not None
        return known

    async def layout(self, name: PopulationName) -> ParamLayout:
        """Return the layout of the population's parameters in a vector."""
        if name not in self._layouts:
            self._layouts[name] = ParamLayout.for_config(await self.config(name))
        return self._layouts[name]

    async def config(self, name: PopulationName) -> ModelConfig:
        """Return the dimensions of the population's model."""
        population = await self.population(name)
        return ModelConfig.from_dict(json.loads(population.config_json))

    async def report_layout(self, spec: TaskSpec) -> ParamLayout:
        """Return the layout of the numbers in a report to this task."""
        match spec.kind:
            case TaskKind.TRAIN:
                return await self.layout(spec.population)
            case TaskKind.PERSONALIZE:
                return EVIDENCE_LAYOUT
            case TaskKind.EVALUATE:
                return paired_layout(spec.comparison.ordered_metrics)
            case _:
                assert_never(spec.kind)

    async def personalisation(self, name: PopulationName) -> PopulationPersonalisation | None:
        """Return the result of the population's ``personalize`` rounds; None before the first."""
        stored = (await self.population(name)).personalisation_json
        return None if stored is None else personalisation_from_json(stored)

    async def version(self, name: PopulationName, version: int) -> VersionRecord:
        """Return one version that is served; raises ApiError ``model_unknown`` or ``model_withdrawn``."""
        record = await self.any_version(name, version)
        if record.withdrawn_at is not None:
            detail = f"Version {version} of population {name!r} was withdrawn; take the newest."
            raise ApiError(ProblemCode.MODEL_WITHDRAWN, detail)
        return record

    async def any_version(self, name: PopulationName, version: int) -> VersionRecord:
        """Return one version, also if it was withdrawn; raises ApiError ``model_unknown``."""
        record = self._versions.get((name, version))
        if record is None:
            versions = self._versions  # what is forgotten while this reads is not remembered again
            record = await self._deps.store.populations.version(name, ModelVersion(version))
            if record is None:
                detail = f"Population {name!r} has no model version {version}."
                raise ApiError(ProblemCode.MODEL_UNKNOWN, detail)
            versions[name, version] = record
        return record

    def forget_rows(self) -> None:
        """Forget the rows that were read: once a pass, and when this process learns of a change."""
        self._versions, self._ids = LRUCache(_MAX_CACHED_ROWS), LRUCache(_MAX_CACHED_ROWS)
        self._archived, self._releases = LRUCache(_MAX_CACHED_ROWS), LRUCache(_MAX_CACHED_ROWS)

    async def training_model(self, name: PopulationName, version: int) -> Download:
        """Return the download from which phones train."""
        return await self.download_of(await self.version(name, version), ModelWeights.TRAINING)

    async def released_model(self, name: PopulationName, version: int) -> Download:
        """Return the download that keyboards serve: the versions' average where the task asks for one."""
        return await self.download_of(await self.version(name, version), ModelWeights.RELEASED)

    async def download_of(self, record: VersionRecord, weights: ModelWeights) -> Download:
        """Return a version's download, from the cache if it is one of the last few."""
        return await self._cached_download(record.key_of(weights), record.digest_of(weights))

    async def _cached_download(self, key: str, digest: bytes) -> Download:
        return self._downloads.get(key) or await self._read_download(key, digest)

    async def _read_download(self, key: str, digest: bytes) -> Download:
        async with self._read_lock:
            cached = self._downloads.get(key)
            if cached is None:
                cached = self._downloads[key] = Download(await self._deps.blobs.get(key), digest)
        return cached

    async def checkpoint(self, name: PopulationName, version: int) -> Checkpoint:
        """Return a version's float32 master weights, with vocabulary, lineage and anchor text."""
        record = await self.any_version(name, version)
        data = await self._deps.blobs.get(record.checkpoint_key)
        try:
            return await self._deps.closing.run(Checkpoint.from_bytes, data)
        except CheckpointError as error:
            raise StorageError(
                f"Blob {record.checkpoint_key} is damaged ({error}); restore it from a backup."
            ) from None

    async def released_version(self, name: PopulationName, device: DeviceId | None = None) -> ModelVersion:
        """Return the version that keyboards serve; raises ApiError ``population_unknown``.

        Args:
            name: The population.
            device: The phone that asks: a candidate is served to those in its stage. None: the version for
                everybody else, perhaps as it was at the last pass.
        Guarantees:
            A phone is answered by the row as it is now, also where another process has just changed it: its
            keyboard goes to no version and back because two servers answer it in turn.
        """
        if device is not None:
            self._releases.pop(name, None)
        release = await self.current_release(name)
        if device is None or release.candidate is None or release.percent == 0:
            return release.version
        is_first = is_in_stage(await self.bucket(name, device), release.percent)
        return release.candidate if is_first else release.version

    async def bucket(self, name: PopulationName, device: DeviceId) -> int:
        """Return a device's bucket; an attested installation that enrols anew as another device keeps its."""
        row = await self._deps.store.devices.get(device)
        identity = device if row is None or row.subject_digest is None else row.subject_digest
        return bucket_of(name, identity)

    async def candidate_version(self, name: PopulationName) -> ModelVersion:
        """Return the version that is to be released: the release's candidate or, without one, the newest."""
        release = await self.current_release(name)
        if release.candidate is not None:
            return release.candidate
        return (await self.population(name)).latest_version

    async def current_release(self, name: PopulationName) -> ReleaseRecord:
        """Return the row that says what keyboards are served, perhaps as it was at the last pass.

        Raises:
            ApiError: ``population_unknown``.
        """
        if (known := self._releases.get(name)) is None:
            releases = self._releases  # what is forgotten while this reads is not remembered again
            known = await self._deps.store.releases.newest(name)
            if known is None:
                raise population_unknown()
            releases[name] = known
        return known

    async def release(self, name: PopulationName, device: DeviceId | None = None) -> Release:
        """Return what keyboards should serve: the released version, or the average that ends with it.

        Args:
            name: The population.
            device: See ``released_version``.
        """
        population = await self.population(name)
        version = await self.version(name, await self.released_version(name, device))
        found, layout = await self.personalisation(name), await self.layout(name)
        return Release(
            population=name,
            model_version=version.version,
            model_digest=version.released_digest or version.download_digest,
            size_bytes=version.released_bytes or version.download_bytes,
            vocabulary=population.vocabulary_digest,
            layout=layout.digest,
            tensors=layout.text,
            personalisation=None if found is None else found.release(),
            weights=served_weights(version),
        )

    async def vocabulary(self, name: PopulationName) -> bytes:
        """Return the words of the model's rows, which are the same in every version."""
        population = await self.population(name)
        async with self._read_lock:
            if name not in self._vocabularies:
                checkpoint = await self.checkpoint(name, population.latest_version)
                self._vocabularies[name] = checkpoint.vocabulary.to_bytes()
        return self._vocabularies[name]


def next_checkpoint(before: Checkpoint, weights: F32, lineage: dict[str, str]) -> Checkpoint:
    """Return ``before`` with other weights and further lineage."""
    return replace(before, weights=weights, lineage={**before.lineage, **lineage})


def _measure_anchor(checkpoint: Checkpoint) -> _AnchorMeasurement:
    """Return the loss on the anchor text; raises ApiError if it is not finite."""
    if checkpoint.anchor is None:
        return _AnchorMeasurement()
    from keyflock_models.network.anchor_loss import anchor_loss

    loss = anchor_loss(checkpoint.config, checkpoint.vocabulary, checkpoint.weights, checkpoint.anchor)
    if not math.isfinite(loss):
        raise ApiError(ProblemCode.INVALID_CHECKPOINT, "Its loss on its own anchor text is not finite.")
    return _AnchorMeasurement(anchor_tokens(checkpoint.anchor, checkpoint.vocabulary), loss)


def served_weights(version: VersionRecord) -> ModelWeights:
    """Return which of a version's weights keyboards serve."""
    return ModelWeights.TRAINING if version.released_key is None else ModelWeights.RELEASED


def population_unknown() -> ApiError:
    """Return the error for a population that was never here, or was deleted."""
    return ApiError(ProblemCode.POPULATION_UNKNOWN, "There is no such population here.")


def archived_detail(name: PopulationName) -> str:
    """Return why an archived population takes nothing new."""
    return f"Population {name!r} is archived, and takes nothing new; unarchive it first."


def _population_exists(name: PopulationName) -> ApiError:
    return ApiError(
        ProblemCode.CONFLICT,
        f"There is a population that has, or once had, the name {name!r}; its model is not replaced.",
    )
