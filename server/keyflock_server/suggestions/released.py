"""The network that keyboards should serve, for each population; a new version takes over between passes."""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from keyflock_compression import decode_weights
from keyflock_models.layout import ParamLayout
from keyflock_models.serving.trunk_batch import TrunkBatch
from keyflock_models.serving.vocabulary_index import MayShow, VocabularyIndex
from keyflock_models.vocabulary import Vocabulary
from keyflock_server.heads.reader import Languages
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.operator import PopulationView
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.suggestions")


class ModelBody(Protocol):
    """A version as phones download it."""

    @property
    def body(self) -> bytes:
        """A compression container."""
        ...


class Releases(Protocol):
    """Where versions come from: the coordinator."""

    async def populations(self) -> list[PopulationView]:
        """All of them."""
        ...

    async def release(self, population: PopulationName) -> Release:
        """What keyboards should serve."""
        ...

    async def model(self, population: PopulationName, version: int) -> ModelBody:
        """A version's bytes."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedTrunk:
    """One version, compiled."""

    version: ModelVersion
    trunk: TrunkBatch
    index: VocabularyIndex


class Released:
    """The released versions of all populations.

    Args:
        releases: Where they come from.
        languages: The populations' words and dimensions.
        may_show: Which words may be suggested.
    """

    def __init__(self, releases: Releases, languages: Languages, may_show: MayShow) -> None:
        self._releases = releases
        self._languages = languages
        self._may_show = may_show
        self._now: dict[PopulationName, ReleasedTrunk] = {}

    def of(self, population: PopulationName) -> ReleasedTrunk:
        """What answers for a population; raises Refused ``not_ready`` while it is being compiled."""
        trunk = self._now.get(population)
        if trunk is None:
            raise Refused(ProblemCode.NOT_READY, "The population's model is being made ready.")
        return trunk

    async def follow(self) -> None:
        """Make ready what was released since."""
        for population in await self._releases.populations():
            name = PopulationName(population.name)
            release = await self._releases.release(name)
            known = self._now.get(name)
            if known is None or known.version != release.model_version:
                self._now[name] = await self._ready(name, release.model_version, known)

    async def _ready(
        self, name: PopulationName, version: ModelVersion, before: ReleasedTrunk | None
    ) -> ReleasedTrunk:
        language = await self._languages.of(name)
        download = await self._releases.model(name, version)
        index = before.index if before else await asyncio.to_thread(self._index, language.vocabulary)

        def made() -> TrunkBatch:
            # The weights that phones have, not the master's: a head was fitted on theirs.
            weights = decode_weights(download.body, ParamLayout.of(language.config))
            trunk = TrunkBatch(language.config, weights, index.is_shown)
            # Programs depend on the dimensions alone: the second version compiles nothing.
            trunk.compile()
            return trunk

        trunk = await asyncio.to_thread(made)
        _log.info("suggestions come from", population=name, version=version)
        return ReleasedTrunk(version, trunk, index)

    def _index(self, vocabulary: Vocabulary) -> VocabularyIndex:
        return VocabularyIndex.of(vocabulary, self._may_show)
