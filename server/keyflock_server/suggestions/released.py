"""The network that keyboards should serve, for each population; a new version takes over between passes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from keyflock_compression import decode_weights
from keyflock_models.layout import ParamLayout
from keyflock_models.personal.head import WrongSpaceError
from keyflock_models.personal.head_mapping import HeadMap, composed
from keyflock_models.serving.trunk_batch import TrunkBatch
from keyflock_models.serving.vocabulary_index import MayShow, VocabularyIndex
from keyflock_models.vocabulary import Vocabulary
from keyflock_server.heads.checks import RECENT_VERSIONS
from keyflock_server.heads.maps import HeadMaps, Versions
from keyflock_server.heads.reader import Languages
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.operator import PopulationView
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.telemetry.logs import logger

_log: Final = logger("keyflock.suggestions")
#: Versions that a head is carried over, at most.
_MOST_STEPS: Final = RECENT_VERSIONS - 1


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
    #: Maps lead on from this version and all after it, as far as there are any.
    since: ModelVersion


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
        self._is_closed = False

    def close(self) -> None:
        """Leave what is being compiled: the process is about to end."""
        self._is_closed = True

    def of(self, population: PopulationName) -> ReleasedTrunk:
        """What answers for a population; raises Refused ``not_ready`` while it is being compiled."""
        trunk = self._now.get(population)
        if trunk is None:
            raise Refused(ProblemCode.NOT_READY, "The population's model is being made ready.")
        return trunk

    async def follow(self) -> None:
        """Make ready what was released since.

        A population whose release cannot be made ready goes on with what it has, and is tried again.
        """
        for population in await self._releases.populations():
            name = PopulationName(population.name)
            try:
                release = await self._releases.release(name)
                known = self._now.get(name)
                if known is None or known.version != release.model_version:
                    self._now[name] = await self._ready(name, release.model_version, known)
                elif known.since > max(0, known.version - _MOST_STEPS):
                    self._now[name] = await self._reaching_back(name, known)
            except Exception as error:  # noqa: BLE001 - whatever it was, the other populations go on
                _log.error("a release cannot be served yet", population=name, exc_info=error)

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
            trunk.compile(lambda: self._is_closed)
            return trunk

        trunk = await asyncio.to_thread(made)
        _log.info("suggestions come from", population=name, version=version)
        ready = ReleasedTrunk(version, trunk, index, {}, since=version)
        if before is None or not 0 < version - before.version <= _MOST_STEPS:
            return ready
        return await self._carried(name, before, ready)

    async def _carried(
        self, name: PopulationName, before: ReleasedTrunk, ready: ReleasedTrunk
    ) -> ReleasedTrunk:
        """The maps to the version before, each carried further, and the steps since."""
        maps, since = dict(before.maps), before.since
        for step in range(before.version + 1, ready.version + 1):
            try:
                one = (await self._maps.to(name, step)).map
                maps = {origin: composed(first, one) for origin, first in maps.items()}
            except (Refused, WrongSpaceError):
                # A version between was pruned, or has other weights released now: earlier heads stay behind.
                maps, since = {}, ModelVersion(step)
                continue
            maps[one.from_space] = one
        # The oldest go: a head that was not refitted for so long has no weight left.
        kept = dict(list(maps.items())[-_MOST_STEPS:])
        return replace(ready, maps=kept, since=max(since, ModelVersion(ready.version - _MOST_STEPS)))

    async def _reaching_back(self, name: PopulationName, known: ReleasedTrunk) -> ReleasedTrunk:
        """One more version's heads are carried along: those put before the server was started."""
        try:
            one = (await self._maps.to(name, known.since)).map
            rest = known.maps.get(one.to_space)
            whole = one if rest is None else composed(one, rest)
        except (Refused, WrongSpaceError):  # as above; no map leads on from there
            return replace(known, since=ModelVersion(0))
        if whole.to_space != known.trunk.space:
            return replace(known, since=ModelVersion(0))
        # In front, where the oldest are.
        return replace(known, maps={one.from_space: whole, **known.maps}, since=ModelVersion(known.since - 1))

    def _index(self, vocabulary: Vocabulary) -> VocabularyIndex:
        return VocabularyIndex.of(vocabulary, self._may_show)
