"""The compiled trunk of each population's released version; a new version takes over between passes."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from keyflock_compression import decode_weights
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head import WrongSpaceError
from keyflock_models.personal.head_mapping import HeadMap, compose_maps
from keyflock_models.serving.vocabulary_index import MayShow, VocabularyIndex
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.personal_models.head_maps import HeadMapService, ReleasedModelSource
from keyflock_server.personal_models.population_model_info import PopulationModelInfos
from keyflock_server.personal_models.validation import RECENT_VERSIONS
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.suggestions.blocked import BlockedWords
from keyflock_server.telemetry.logs import logger

if TYPE_CHECKING:
    from keyflock_models.serving.batched_trunk import BatchedTrunk  # it loads JAX

_log: Final = logger("keyflock.suggestions")
#: Maximum number of versions over which a head is mapped.
_MAX_STEPS: Final = RECENT_VERSIONS - 1


class PopulationReleaseSource(ReleasedModelSource, Protocol):
    """The source of populations and their releases: the model store."""

    async def population_names(self) -> list[PopulationName]:
        """Return the names of all populations."""
        ...

    async def release(self, population: PopulationName) -> Release:
        """Return the release that keyboards should use."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedTrunk:
    """The compiled trunk of one version, and the maps that lead to it."""

    version: ModelVersion
    trunk: "BatchedTrunk"
    index: VocabularyIndex
    #: The head maps to this version's feature space, by the feature space of the earlier version.
    maps: Mapping[str, HeadMap]
    #: The maps cover this version and all later ones, as far as there are maps.
    since: ModelVersion


class ReleasedTrunks:
    """The compiled trunks of all populations.

    Args:
        releases: The source of populations and releases.
        model_infos: The populations' vocabularies and dimensions.
        maps: Map heads of earlier versions to later ones.
        may_show: Says which words may be suggested.
    """

    def __init__(
        self,
        releases: PopulationReleaseSource,
        model_infos: PopulationModelInfos,
        maps: HeadMapService,
        may_show: MayShow,
    ) -> None:
        self._releases = releases
        self._model_infos = model_infos
        self._maps = maps
        self._may_show = may_show
        self._current: dict[PopulationName, ReleasedTrunk] = {}
        self._is_closed = False

    def close(self) -> None:
        """Stop compiling, because the process is about to end."""
        self._is_closed = True

    def get(self, population: PopulationName) -> ReleasedTrunk:
        """Return the trunk of a population; raises ApiError ``not_ready`` while it is being compiled."""
        trunk = self._current.get(population)
        if trunk is None:
            raise ApiError(ProblemCode.NOT_READY, "The population's model is being made ready.")
        return trunk

    async def refresh(self) -> None:
        """Compile the trunks of new releases.

        A population whose release cannot be compiled goes on with the trunk it has, and is tried again.
        """
        names = await self._releases.population_names()
        for gone in self._current.keys() - set(names):
            del self._current[gone]
        for name in names:
            try:
                release = await self._releases.release(name)
                known = self._current.get(name)
                if known is None or known.version != release.model_version:
                    self._current[name] = await self._compile(name, release.model_version, known)
                elif known.since > max(0, known.version - _MAX_STEPS):
                    self._current[name] = await self._extend_head_maps(name, known)
            except Exception as error:  # noqa: BLE001 - after any error the other populations go on
                _log.error("a release cannot be served yet", population=name, exc_info=error)

    async def _compile(
        self, name: PopulationName, version: ModelVersion, before: ReleasedTrunk | None
    ) -> ReleasedTrunk:
        language = await self._model_infos.get(name)
        download = await self._releases.released_model(name, version)
        index = before.index if before else await asyncio.to_thread(self._index, language.vocabulary)

        def compiled() -> "BatchedTrunk":
            from keyflock_models.serving.batched_trunk import BatchedTrunk

            # These are the weights that phones have, not the master's, because heads are fitted on them.
            weights = decode_weights(download.body, ParamLayout.for_config(language.config))
            trunk = BatchedTrunk(language.config, weights, index.is_shown)
            # Programs depend only on the dimensions, so the second version compiles nothing.
            trunk.compile(lambda: self._is_closed)
            return trunk

        trunk = await asyncio.to_thread(compiled)
        _log.info("suggestions come from", population=name, version=version)
        ready = ReleasedTrunk(version, trunk, index, {}, since=version)
        if before is None or not 0 < version - before.version <= _MAX_STEPS:
            return ready
        return await self._with_head_maps(name, before, ready)

    async def _with_head_maps(
        self, name: PopulationName, before: ReleasedTrunk, ready: ReleasedTrunk
    ) -> ReleasedTrunk:
        """Return ``ready`` with the maps of the version before, each extended, and of the steps since."""
        maps, since = dict(before.maps), before.since
        for step in range(before.version + 1, ready.version + 1):
            try:
                one = (await self._maps.map_to(name, step)).map
                maps = {origin: compose_maps(first, one) for origin, first in maps.items()}
            except (ApiError, WrongSpaceError):
                # A version between was pruned or has other weights now, so earlier heads cannot be mapped.
                maps, since = {}, ModelVersion(step)
                continue
            maps[one.from_space] = one
        # The oldest maps are dropped: a head that was not refitted for so long has no weight left.
        recent = dict(list(maps.items())[-_MAX_STEPS:])
        return replace(ready, maps=recent, since=max(since, ModelVersion(ready.version - _MAX_STEPS)))

    async def _extend_head_maps(self, name: PopulationName, known: ReleasedTrunk) -> ReleasedTrunk:
        """Return ``known`` with the map of one more earlier version, from before the server's start."""
        try:
            one = (await self._maps.map_to(name, known.since)).map
            rest = known.maps.get(one.to_space)
            whole = one if rest is None else compose_maps(one, rest)
        except (ApiError, WrongSpaceError):  # as above: no map leads on from there
            return replace(known, since=ModelVersion(0))
        if whole.to_space != known.trunk.space:
            return replace(known, since=ModelVersion(0))
        # The oldest maps come first.
        return replace(known, maps={one.from_space: whole, **known.maps}, since=ModelVersion(known.since - 1))

    def _index(self, vocabulary: Vocabulary) -> VocabularyIndex:
        may_show = self._may_show
        if isinstance(may_show, BlockedWords):
            may_show = may_show.in_language_of(vocabulary)
        return VocabularyIndex.from_vocabulary(vocabulary, may_show)
