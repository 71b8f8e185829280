"""Checks that an uploaded personal model fits its population, and its head one of the recent trunks.

A head belongs to the feature space of the weights that it was fitted on. A head of another population, of
weights that were never released, or of a version so old that no map leads on from it could never be used. So
it is refused, and the phone is told.
"""

import asyncio
from typing import Final, Protocol

from keyflock_compression import decode_weights
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.head import feature_space
from keyflock_server.personal_models.decode_thread_pool import DecodeThreadPool
from keyflock_server.personal_models.head_maps import ReleasedModel, ReleasedModelSource
from keyflock_server.personal_models.population_model_info import PopulationModelInfo, PopulationModelInfos
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.records import PopulationRecord

#: Number of newest versions whose heads are accepted, as the released one's are, and over which heads are
#: mapped to a new trunk.
RECENT_VERSIONS: Final = 16


class ReleaseSource(ReleasedModelSource, Protocol):
    """The source of releases: the model store."""

    async def population(self, name: PopulationName) -> PopulationRecord:
        """Return the population, with its newest version."""
        ...

    async def released_version(self, name: PopulationName) -> ModelVersion:
        """Return the version that keyboards serve."""
        ...


class PersonalModelValidator:
    """Validates uploads for all populations.

    Args:
        releases: The released models.
        model_infos: The populations' vocabularies and dimensions.
        threads: Run the decoding.
    """

    def __init__(
        self, releases: ReleaseSource, model_infos: PopulationModelInfos, threads: DecodeThreadPool
    ) -> None:
        self._releases = releases
        self._model_infos = model_infos
        self._threads = threads
        #: The feature spaces of each population's recent versions.
        self._spaces: dict[PopulationName, dict[int, str]] = {}
        self._lock = asyncio.Lock()

    async def check(self, population: PopulationName, data: bytes) -> bytes:
        """Check an uploaded personal model; see ``service.UploadValidator``."""
        info = await self._model_infos.get(population)
        model, accepted = await self._threads.run(lambda: info.decode_upload(data))
        if model.head is not None and not await self._is_recent(population, info, model.head.space):
            raise ApiError(
                ProblemCode.STALE_HEAD,
                f"The head's feature space is that of none of the {RECENT_VERSIONS} newest versions, nor the "
                "released one's: "
                "fit it anew, or put the personal model without a head.",
            )
        return accepted

    async def _is_recent(self, population: PopulationName, info: PopulationModelInfo, space: str) -> bool:
        newest = (await self._releases.population(population)).latest_version
        released = await self._releases.released_version(population)
        async with self._lock:
            oldest = max(0, newest - RECENT_VERSIONS + 1)
            recent = dict.fromkeys((released, *range(newest, oldest - 1, -1)))
            known = self._spaces.get(population, {})
            known = self._spaces[population] = {at: one for at, one in known.items() if at in recent}
            if space in known.values():
                return True
            for version in recent:
                if version in known:
                    continue
                try:
                    body = await self._releases.released_model(population, version)
                except ApiError as refused:
                    if refused.code is ProblemCode.MODEL_WITHDRAWN:
                        continue
                    break  # it was pruned, and so were the versions before it
                known[version] = await asyncio.to_thread(_space_of, body, info)
                if known[version] == space:
                    return True
        return False


def _space_of(model: ReleasedModel, info: PopulationModelInfo) -> str:
    # These are the weights that phones have, not the master's, because heads are fitted on them.
    return feature_space(decode_weights(model.body, ParamLayout.for_config(info.config)))
