"""Maps that carry heads from one model version to the next: made when first asked for, the same for everyone.

A map follows from two published versions and the public vocabulary alone, so it is no secret and need not be
stored; the last few are kept in memory.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

from keyflock_compression import decode_weights, encode_state
from keyflock_models.layout import ParamLayout
from keyflock_models.neural_scorer import NeuralScorer
from keyflock_models.personal.head_mapping import HeadMap, fit_head_map
from keyflock_server.heads.reader import Language, Languages
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ProblemCode, Refused

_KEPT: Final = 32


class ModelBody(Protocol):
    """A version as keyboards download it."""

    @property
    def body(self) -> bytes:
        """A compression container."""
        ...


class Versions(Protocol):
    """Where versions come from: the coordinator."""

    async def released_model(self, population: PopulationName, version: int) -> ModelBody:
        """The bytes that keyboards serve of a version.

        Raises:
            Refused: ``model_unknown`` or ``model_withdrawn``.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PublishedMap:
    """A map, and its bytes in the container of ``encode_state``."""

    map: HeadMap
    body: bytes
    #: SHA-256 of the body.
    digest: bytes


class HeadMaps:
    """The maps of all populations.

    Args:
        versions: The published models.
        languages: The populations' words and dimensions.
    """

    def __init__(self, versions: Versions, languages: Languages) -> None:
        self._versions = versions
        self._languages = languages
        self._kept: OrderedDict[tuple[PopulationName, int], PublishedMap] = OrderedDict()
        #: A thousand phones that ask at once cost one regression.
        self._making = asyncio.Lock()

    async def to(self, population: PopulationName, version: int) -> PublishedMap:
        """The map from the version before to this one.

        Raises:
            Refused: ``model_unknown``: there is no such version, or none before it; ``model_withdrawn``.
        """
        if version < 1:
            raise Refused(ProblemCode.MODEL_UNKNOWN, "Version 0 has none before it to map a head from.")
        key = population, version
        # Asked every time: a version may have been withdrawn since its map was made.
        new = await self._versions.released_model(population, version)
        async with self._making:
            if key not in self._kept:
                language = await self._languages.of(population)
                old = await self._versions.released_model(population, version - 1)
                self._kept[key] = await asyncio.to_thread(_made, language, old.body, new.body)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            return self._kept[key]


def _made(language: Language, old: bytes, new: bytes) -> PublishedMap:
    layout = ParamLayout.of(language.config)
    # The weights that phones have, not the masters: heads are fitted on theirs.
    before, after = (
        NeuralScorer(language.config, decode_weights(body, layout), language.vocabulary)
        for body in (old, new)
    )
    found = fit_head_map(before, after)
    body = encode_state(found.to_state())
    # What is used here is what is sent: float16 and back.
    read = HeadMap.from_state(found.to_state(), width=language.config.embedding_size)
    return PublishedMap(read, body, hashlib.sha256(body).digest())
