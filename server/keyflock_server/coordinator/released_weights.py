"""The versions' average on its way to keyboards: written with a round's step, published with its version.

The average that a step starts from is the one that the population's row points to, and that pointer moves in
the transaction that publishes the version. So a step that is done again after a crash starts from the same
average and writes the same bytes under fresh names, and no version enters it twice.
"""

from dataclasses import dataclass
from typing import NamedTuple

from keyflock_models.arrays import F32
from keyflock_models.layout import ParamLayout
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.ema import WeightAverage
from keyflock_server.releases.model_version import Download, download_digest, package
from keyflock_server.storage.door import StorageError
from keyflock_server.storage.records import RoundRecord


class AverageKeys(NamedTuple):
    """Where a step's average lies; None, None where the task wants none."""

    average_key: str | None = None
    released_key: str | None = None


@dataclass(frozen=True, slots=True)
class ReleasedFields:
    """What a version's row says of its release; all None: keyboards serve what phones train from."""

    released_digest: bytes | None = None
    released_bytes: int | None = None
    released_key: str | None = None


class ReleasedWeights:
    """Keeps the averages."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    async def write(self, record: RoundRecord, before: F32, after: F32, layout: ParamLayout) -> AverageKeys:
        """The average with the round's version in it, and its download; nothing points to them yet.

        Args:
            record: The round.
            before: The weights that it started from: an average's beginning, where there is none yet.
            after: The weights that it made.
            layout: Of both.
        """
        world, current = self._world, record.round
        decay = current.spec.release.ema_decay
        if decay == 0.0:
            return AverageKeys()
        known = await self._known(current.population, layout.size)

        def made() -> tuple[bytes, Download]:
            average = (known or WeightAverage.of(before, decay)).after(after, decay)
            return average.to_bytes(), package(average.mean, layout)

        data, download = await world.workbench.run(made)
        keys = AverageKeys(
            f"averages/{current.population}/{world.new_id()}",
            f"versions/{current.population}/{current.base_version + 1}-{world.new_id()}/released",
        )
        await world.blobs.put(keys.average_key or "", data)
        await world.blobs.put(keys.released_key or "", download.body)
        return keys

    async def fields(self, record: RoundRecord) -> ReleasedFields:
        """What the version's row is to say of the release that ``write`` made."""
        if record.released_key is None:
            return ReleasedFields()
        body = await self._world.blobs.get(record.released_key)
        return ReleasedFields(download_digest(body), len(body), record.released_key)

    async def superseded(self, record: RoundRecord) -> tuple[str, ...]:
        """What publishing the round's version leaves behind; to be asked before, deleted after."""
        population = await self._world.store.populations.get(record.round.population)
        key = None if population is None else population.average_key
        return () if key is None or key == record.average_key else (key,)

    async def _known(self, name: PopulationName, size: int) -> WeightAverage | None:
        population = await self._world.store.populations.get(name)
        if population is None:
            raise StorageError(f"Population {name} is gone; restore the database.")
        if population.average_key is None:
            return None
        data = await self._world.blobs.get(population.average_key)
        return await self._world.workbench.run(WeightAverage.from_bytes, data, size)
