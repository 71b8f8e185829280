"""Model versions for the rest of the coordinator: what phones download, and the master weights.

Downloads are immutable, so the last few are kept in memory.
"""

import asyncio
import json
import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, assert_never

from keyflock_models.anchor import anchor_loss, anchor_tokens
from keyflock_models.arrays import F32
from keyflock_models.checkpoint import Checkpoint, CheckpointError
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT
from keyflock_server.aggregation.population_personalisation import (
    PopulationPersonalisation,
    stored_personalisation,
)
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import ModelWeights, Release, TaskKind
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.releases.model_version import Download, VersionRecord, package
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.storage.door import AlreadyExists, StorageError
from keyflock_server.storage.records import PopulationRecord

_KEPT_DOWNLOADS: Final = 8


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """Where a new version's blobs lie, before anything points to them."""

    checkpoint_key: str
    download_key: str
    download: Download


class _Anchor(NamedTuple):
    """What a population's anchor text is, and version 0's loss on it; None where it came without one."""

    tokens: int | None = None
    loss: float | None = None


class Trunk:
    """The shared models of all populations."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._downloads: OrderedDict[str, Download] = OrderedDict()
        self._layouts: dict[str, ParamLayout] = {}
        self._vocabularies: dict[str, bytes] = {}
        #: Held while something is read into memory: a thousand phones that ask at once cost one read.
        self._reading = asyncio.Lock()

    async def found(self, name: PopulationName, checkpoint: bytes) -> PopulationRecord:
        """A new population whose version 0 is this checkpoint.

        Raises:
            Refused: ``invalid_checkpoint``; ``conflict`` when the name is taken.
        """
        world = self._world
        try:
            loaded = await world.workbench.run(Checkpoint.from_bytes, checkpoint)
        except CheckpointError as error:
            raise Refused(ProblemCode.INVALID_CHECKPOINT, f"{error}") from None
        if await world.store.populations.get(name) is not None:
            raise _taken(name)
        now = world.clock()
        anchor = await world.workbench.run(_measured, loaded)
        stored = await self.store(name, ModelVersion(0), loaded, checkpoint)
        population = PopulationRecord(
            name=name,
            created_at=now,
            latest_version=ModelVersion(0),
            config_json=json.dumps(loaded.config.to_dict()),
            vocabulary_digest=loaded.vocabulary.digest,
            anchor_tokens=anchor.tokens,
            anchor_loss_chosen=anchor.loss,
        )
        version = VersionRecord(
            population=name,
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
            await world.store.populations.add(population, version)
        except AlreadyExists:
            raise _taken(name) from None
        return population

    async def store(
        self, name: PopulationName, version: ModelVersion, checkpoint: Checkpoint, data: bytes | None = None
    ) -> StoredVersion:
        """Write a version's blobs; nothing points to them yet."""
        world = self._world
        if data is None:
            data = await world.workbench.run(checkpoint.to_bytes)
        layout = ParamLayout.of(checkpoint.config)
        download = await world.workbench.run(package, checkpoint.weights, layout)
        folder = f"versions/{name}/{version}-{world.new_id()}"
        stored = StoredVersion(f"{folder}/checkpoint", f"{folder}/download", download)
        await world.blobs.put(stored.checkpoint_key, data)
        await world.blobs.put(stored.download_key, download.body)
        return stored

    async def population(self, name: PopulationName) -> PopulationRecord:
        """One population; raises Refused ``population_unknown``."""
        record = await self._world.store.populations.get(name)
        if record is None:
            raise Refused(ProblemCode.POPULATION_UNKNOWN, "There is no such population here.")
        return record

    async def layout(self, name: PopulationName) -> ParamLayout:
        """How the population's parameters lie in a vector."""
        if name not in self._layouts:
            self._layouts[name] = ParamLayout.of(await self.config(name))
        return self._layouts[name]

    async def config(self, name: PopulationName) -> ModelConfig:
        """The dimensions of the population's model."""
        population = await self.population(name)
        return ModelConfig.from_dict(json.loads(population.config_json))

    async def report_layout(self, spec: TaskSpec) -> ParamLayout:
        """How the numbers of a report to this task lie in a vector."""
        match spec.kind:
            case TaskKind.TRAIN:
                return await self.layout(spec.population)
            case TaskKind.PERSONALIZE:
                return EVIDENCE_LAYOUT
            case _:
                assert_never(spec.kind)

    async def personalisation(self, name: PopulationName) -> PopulationPersonalisation | None:
        """What ``personalize`` rounds have found; None before the first."""
        stored = (await self.population(name)).personalisation_json
        return None if stored is None else stored_personalisation(stored)

    async def version(self, name: PopulationName, version: int) -> VersionRecord:
        """One version that is served; raises Refused ``model_unknown`` or ``model_withdrawn``."""
        record = await self.any_version(name, version)
        if record.withdrawn_at is not None:
            detail = f"Version {version} of population {name!r} was withdrawn; take the newest."
            raise Refused(ProblemCode.MODEL_WITHDRAWN, detail)
        return record

    async def any_version(self, name: PopulationName, version: int) -> VersionRecord:
        """One version, also one that was withdrawn; raises Refused ``model_unknown``."""
        record = await self._world.store.populations.version(name, ModelVersion(version))
        if record is None:
            raise Refused(ProblemCode.MODEL_UNKNOWN, f"Population {name!r} has no model version {version}.")
        return record

    async def download(self, name: PopulationName, version: int) -> Download:
        """What phones get for a version."""
        return await self.stored(await self.version(name, version), ModelWeights.TRAINING)

    async def released(self, name: PopulationName, version: int) -> Download:
        """What keyboards serve of a version: the versions' average where its task wanted one."""
        return await self.stored(await self.version(name, version), ModelWeights.RELEASED)

    async def stored(self, record: VersionRecord, weights: ModelWeights) -> Download:
        """A version's download, out of memory if it is one of the last few."""
        return await self._blob(record.key_of(weights), record.digest_of(weights))

    async def _blob(self, key: str, digest: bytes) -> Download:
        cached = self._downloads.get(key) or await self._read(key, digest)
        if key in self._downloads:
            self._downloads.move_to_end(key)
        while len(self._downloads) > _KEPT_DOWNLOADS:
            self._downloads.popitem(last=False)
        return cached

    async def _read(self, key: str, digest: bytes) -> Download:
        async with self._reading:
            cached = self._downloads.get(key)
            if cached is None:
                cached = self._downloads[key] = Download(await self._world.blobs.get(key), digest)
        return cached

    async def checkpoint(self, name: PopulationName, version: int) -> Checkpoint:
        """A version's float32 master weights, with vocabulary, lineage and anchor text."""
        record = await self.any_version(name, version)
        data = await self._world.blobs.get(record.checkpoint_key)
        try:
            return await self._world.workbench.run(Checkpoint.from_bytes, data)
        except CheckpointError as error:
            raise StorageError(
                f"Blob {record.checkpoint_key} is damaged ({error}); restore it from a backup."
            ) from None

    async def release(self, name: PopulationName) -> Release:
        """What keyboards should serve: the newest version, or the average that it is the last of."""
        population = await self.population(name)
        version = await self.version(name, population.latest_version)
        found = await self.personalisation(name)
        return Release(
            population=name,
            model_version=version.version,
            model_digest=version.released_digest or version.download_digest,
            size_bytes=version.released_bytes or version.download_bytes,
            vocabulary=population.vocabulary_digest,
            layout=(await self.layout(name)).digest,
            personalisation=None if found is None else found.release(),
            weights=weights_of(version),
        )

    async def vocabulary(self, name: PopulationName) -> bytes:
        """The words that the model's rows mean: every version's, for they never change."""
        population = await self.population(name)
        async with self._reading:
            if name not in self._vocabularies:
                checkpoint = await self.checkpoint(name, population.latest_version)
                self._vocabularies[name] = checkpoint.vocabulary.to_bytes()
        return self._vocabularies[name]


def next_checkpoint(before: Checkpoint, weights: F32, lineage: dict[str, str]) -> Checkpoint:
    """``before`` with other weights and a further line of descent."""
    return replace(before, weights=weights, lineage={**before.lineage, **lineage})


def _measured(checkpoint: Checkpoint) -> _Anchor:
    """Raises Refused for a version 0 that is as good as no model on its own anchor text."""
    if checkpoint.anchor is None:
        return _Anchor()
    loss = anchor_loss(checkpoint.config, checkpoint.vocabulary, checkpoint.weights, checkpoint.anchor)
    if not math.isfinite(loss):
        raise Refused(ProblemCode.INVALID_CHECKPOINT, "Its loss on its own anchor text is not finite.")
    return _Anchor(anchor_tokens(checkpoint.anchor, checkpoint.vocabulary), loss)


def weights_of(version: VersionRecord) -> ModelWeights:
    """Which of a version's weights keyboards serve, as phones are told."""
    return ModelWeights.TRAINING if version.released_key is None else ModelWeights.RELEASED


def _taken(name: PopulationName) -> Refused:
    return Refused(
        ProblemCode.CONFLICT, f"There is a population {name!r} already; its model is not replaced."
    )
