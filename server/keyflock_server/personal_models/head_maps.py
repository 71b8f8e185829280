"""Maps that convert heads of one model version to heads of the next: fitted on demand, the same for everyone.

A map depends only on two published versions and the public vocabulary, so it is no secret and need not be
stored; the last few are cached in memory.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Final, Protocol

from cachetools import FIFOCache

from keyflock_compression import decode_weights, encode_state
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head_mapping import HeadMap, fit_head_map
from keyflock_models.personal.words import PersonalStateError
from keyflock_server.personal_models.population_model_info import PopulationModelInfo, PopulationModelInfos
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode

_MAX_CACHED: Final = 32


class ReleasedModel(Protocol):
    """A model version, as keyboards download it."""

    @property
    def body(self) -> bytes:
        """Return the weights in a compression container."""
        ...


class ReleasedModelSource(Protocol):
    """The source of released models: the model store."""

    async def released_model(self, population: PopulationName, version: int) -> ReleasedModel:
        """Return the weights of a version that keyboards use.

        Raises:
            ApiError: ``model_unknown`` or ``model_withdrawn``.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PublishedHeadMap:
    """A head map, and its bytes in the container of ``encode_state``."""

    map: HeadMap
    body: bytes
    #: SHA-256 of the body.
    digest: bytes


class HeadMapService:
    """Fits and caches the head maps of all populations.

    Args:
        models: The released models.
        model_infos: The populations' vocabularies and dimensions.
    """

    def __init__(self, models: ReleasedModelSource, model_infos: PopulationModelInfos) -> None:
        self._models = models
        self._model_infos = model_infos
        self._cached: FIFOCache[tuple[PopulationName, int], PublishedHeadMap] = FIFOCache(_MAX_CACHED)
        #: Ensures that many phones that ask at once cost only one regression.
        self._fitting = asyncio.Lock()

    async def map_to(self, population: PopulationName, version: int) -> PublishedHeadMap:
        """Return the map from the version before to this one.

        Raises:
            ApiError: ``model_unknown`` or ``model_withdrawn``; ``head_map_unknown`` where the version is
                served, and there is no map to it: the one before it is not served, or too far from it.
        """
        key = population, version
        # The version is fetched every time, because it may have been withdrawn since its map was fitted.
        new = await self._models.released_model(population, version)
        async with self._fitting:
            if key not in self._cached:
                info = await self._model_infos.get(population)
                old = await self._version_before(population, version)
                self._cached[key] = await asyncio.to_thread(_fit, info, old.body, new.body)
            return self._cached[key]

    async def _version_before(self, population: PopulationName, version: int) -> ReleasedModel:
        try:
            return await self._models.released_model(population, version - 1)
        except ApiError as error:
            if error.code not in (ProblemCode.MODEL_UNKNOWN, ProblemCode.MODEL_WITHDRAWN):
                raise
            detail = f"The version before {version} is not served, or there is none; fit the head anew."
            raise ApiError(ProblemCode.HEAD_MAP_UNKNOWN, detail) from None


def _fit(info: PopulationModelInfo, old: bytes, new: bytes) -> PublishedHeadMap:
    from keyflock_models.evaluation.neural_scorer import NeuralScorer

    layout = ParamLayout.for_config(info.config)
    # These are the weights that phones have, not the masters, because heads are fitted on them.
    before, after = (
        NeuralScorer(info.config, decode_weights(body, layout), info.vocabulary) for body in (old, new)
    )
    state = fit_head_map(before, after).to_state()
    try:
        # The map used here equals the one that is sent: it went through float16 and back.
        read = HeadMap.from_state(state, width=info.config.embedding_size)
    except PersonalStateError:
        detail = "The versions are too far apart for a map; fit the head anew."
        raise ApiError(ProblemCode.HEAD_MAP_UNKNOWN, detail) from None
    body = encode_state(state)
    return PublishedHeadMap(read, body, hashlib.sha256(body).digest())
