"""The network that keyboards should serve, for each population; a new version takes over between passes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from keyflock_compression import decode_weights
from keyflock_models.layout import ParamLayout
from keyflock_models.personal.head_mapping import HeadMap, composed
from keyflock_models.serving.trunk_batch import TrunkBatch
from keyflock_models.serving.vocabulary_index import MayShow, VocabularyIndex
from keyflock_models.vocabulary import Vocabulary
from keyflock_server.heads.maps import HeadMaps, Versions
from keyflock_server.heads.reader import Languages
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.operator import PopulationView
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.suggestions")
#: Versions that a head is carried over, at most.
_MOST_STEPS: Final = 16


class Releases(Versions, Protocol):
    """Where versions come from: the coordinator."""

    async def populations(self) -> list[PopulationView]:
        """All of them."""
        ...

    async def release(self, population: PopulationName) -> Release:
        """What keyboards should serve."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedTrunk:
    """One version, compiled."""

    version: ModelVersion
    trunk: TrunkBatch
    index: VocabularyIndex
    #: From feature spaces of earlier versions to this one's.
    maps: Mapping[str, HeadMap]


class Released:
    """The released versions of all populations.

    Args:
        releases: Where they come from.
        languages: The populations' words and dimensions.
        maps: Carries heads of earlier versions along.
        may_show: Which words may be suggested.
    """

    def __init__(self, releases: Releases, languages: Languages, maps: HeadMaps, may_show: MayShow) -> None:
        self._releases = releases
        self._languages = languages
        self._maps = maps
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
        download = await self._releases.released_model(name, version)
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
        maps = await self._mapped(name, before, version) if before else {}
        return ReleasedTrunk(version, trunk, index, maps)

    async def _mapped(
        self, name: PopulationName, before: ReleasedTrunk, version: ModelVersion
    ) -> Mapping[str, HeadMap]:
        """Maps to ``version``: those to the version before, each one step further, and the step itself."""
        maps = dict(before.maps)
        if not 0 < version - before.version <= _MOST_STEPS:
            return {}
        for step in range(before.version + 1, version + 1):
            one = (await self._maps.to(name, step)).map
            maps = {origin: composed(first, one) for origin, first in maps.items()}
            maps[one.from_space] = one
        # The oldest go: a head that was not refitted for so long has no weight left.
        return dict(list(maps.items())[-_MOST_STEPS:])

    def _index(self, vocabulary: Vocabulary) -> VocabularyIndex:
        return VocabularyIndex.of(vocabulary, self._may_show)
