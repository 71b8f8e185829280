"""What is put must be a head of this population, and of one of its recent trunks.

A head lives in the feature space of the weights that it was fitted on. One of another population, of weights
that were never released, or of a version so old that no map leads on from it would be kept for nothing: no
network would ever speak with it. So it is refused, and its phone learns of it.
"""

import asyncio
from typing import Final, Protocol

from keyflock_compression import decode_weights
from keyflock_models.layout import ParamLayout
from keyflock_models.personal.head import feature_space
from keyflock_server.heads.maps import ModelBody, Versions
from keyflock_server.heads.reader import Language, Languages
from keyflock_server.heads.reading_threads import ReadingThreads
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Release
from keyflock_server.protocol.problems import ProblemCode, Refused

#: Versions whose heads are taken, the newest with them: over as many are heads carried to a new network.
RECENT_VERSIONS: Final = 16


class Releases(Versions, Protocol):
    """Where versions come from: the coordinator."""

    async def release(self, population: PopulationName) -> Release:
        """What keyboards should serve."""
        ...


class HeadChecks:
    """``heads.HeadReader`` for all populations.

    Args:
        releases: The published models.
        languages: The populations' words and dimensions.
        threads: Where heads are read.
    """

    def __init__(self, releases: Releases, languages: Languages, threads: ReadingThreads) -> None:
        self._releases = releases
        self._languages = languages
        self._threads = threads
        #: Of each population, the spaces of its recent versions.
        self._spaces: dict[PopulationName, dict[int, str]] = {}
        self._reading = asyncio.Lock()

    async def check(self, population: PopulationName, data: bytes) -> None:
        """See ``heads.HeadReader``."""
        language = await self._languages.of(population)
        model = await self._threads.run(lambda: language.read(data))
        if model.head is not None and not await self._is_recent(population, language, model.head.space):
            raise Refused(
                ProblemCode.STALE_HEAD,
                f"The head's feature space is that of none of the {RECENT_VERSIONS} newest releases: "
                "fit it anew, or put the personal model without a head.",
            )

    async def _is_recent(self, population: PopulationName, language: Language, space: str) -> bool:
        newest = (await self._releases.release(population)).model_version
        async with self._reading:
            oldest = max(0, newest - RECENT_VERSIONS + 1)
            known = self._spaces.get(population, {})
            known = self._spaces[population] = {at: one for at, one in known.items() if at >= oldest}
            if space in known.values():
                return True
            for version in range(newest, oldest - 1, -1):
                if version in known:
                    continue
                try:
                    body = await self._releases.released_model(population, version)
                except Refused as refused:
                    if refused.code is ProblemCode.MODEL_WITHDRAWN:
                        continue
                    break  # pruned, and so are those before
                known[version] = await asyncio.to_thread(_space_of, body, language)
                if known[version] == space:
                    return True
        return False


def _space_of(model: ModelBody, language: Language) -> str:
    # Of the weights that phones have, not of the master's: heads are fitted on theirs.
    return feature_space(decode_weights(model.body, ParamLayout.of(language.config)))
