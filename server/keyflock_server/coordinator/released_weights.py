"""The versions' average is written with a round's step and published to keyboards with its version.

The average that a step starts from is the one that the population's row points to, and that pointer moves in
the transaction that publishes the version. So a step that is repeated after a crash starts from the same
average and writes the same bytes under fresh names, and no version enters it twice.
"""

from typing import NamedTuple

from keyflock_models.arrays import F32
from keyflock_models.network.layout import ParamLayout
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.releases.ema import WeightAverage
from keyflock_server.releases.model_version import Download, package
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.records import RoundRecord, StagedVersion


class StoredAverage(NamedTuple):
    """The blob keys of a step's average, before any row points to them, and its download."""

    average_key: str
    released_key: str
    download: Download


class ReleasedWeightsWriter:
    """Writes the versions' averages."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps

    async def write(
        self, record: RoundRecord, before: F32, after: F32, layout: ParamLayout
    ) -> StoredAverage | None:
        """Write the average that includes the round's version, and its download; None: the task has none.

        Args:
            record: The round.
            before: The weights that it started from; they begin an average where there is none yet.
            after: The weights that its step produced.
            layout: The layout of both.
        """
        deps, current = self._deps, record.round
        decay = current.spec.release.ema_decay
        if decay == 0.0:
            return None
        known = await self._current_average(current.population, layout.size)

        def made() -> tuple[bytes, Download]:
            average = (known or WeightAverage.of(before, decay)).after(after, decay)
            return average.to_bytes(), package(average.mean, layout)

        data, download = await deps.closing.run(made)
        stored = StoredAverage(
            f"averages/{current.population}/{deps.new_id()}",
            f"versions/{current.population}/{current.base_version + 1}-{deps.new_id()}/released",
            download,
        )
        await deps.blobs.put(stored.average_key, data)
        await deps.blobs.put(stored.released_key, download.body)
        return stored

    async def superseded(self, name: PopulationName, staged: StagedVersion) -> tuple[str, ...]:
        """Return the keys that publishing a staged version supersedes; call before, delete after."""
        population = await self._deps.store.populations.get(name)
        key = None if population is None else population.average_key
        return () if key is None or key == staged.average_key else (key,)

    async def _current_average(self, name: PopulationName, size: int) -> WeightAverage | None:
        population = await self._deps.store.populations.get(name)
        if population is None:
            raise StorageError(f"Population {name} is gone; restore the database.")
        if population.average_key is None:
            return None
        data = await self._deps.blobs.get(population.average_key)
        return await self._deps.closing.run(WeightAverage.from_bytes, data, size)
