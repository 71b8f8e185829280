"""The service compiles releases beside the passes, not in them; one release in trouble troubles no other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.suggestions.test_released_trunks import EN, ModelBytes, ScriptedModels, released_from

from keyflock_server.personal_models.head_maps import HeadMapService
from keyflock_server.personal_models.population_model_info import PopulationModelInfos
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.suggestions.released_trunks import ReleasedTrunk
from keyflock_server.suggestions.service import SuggestionService
from keyflock_server.telemetry.metrics import Metrics

SECOND = timedelta(seconds=1)


@dataclass
class SlowTrunks:
    """Releases that take until somebody lets them."""

    asked: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def get(self, population: PopulationName) -> ReleasedTrunk:
        raise ApiError(ProblemCode.NOT_READY, f"{population} is not ready.")

    def close(self) -> None:
        """Nothing is compiled here."""

    async def refresh(self) -> None:
        self.asked += 1
        await self.done.wait()
        if self.error is not None:
            raise self.error


@dataclass
class SettableClock:
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def service_over(releases: SlowTrunks, clock: SettableClock, *, waits: bool = False) -> SuggestionService:
    return SuggestionService(releases, None, clock, Metrics(), waits_for_refresh=waits)


async def test_a_pass_does_not_wait_for_a_release_that_is_compiled() -> None:
    releases, clock = SlowTrunks(), SettableClock()
    service = service_over(releases, clock)

    await asyncio.wait_for(service.tick(), 60.0)
    await asyncio.sleep(0)
    clock.now += 5 * SECOND
    await asyncio.wait_for(service.tick(), 60.0)
    await asyncio.sleep(0)

    assert releases.asked == 1
    await asyncio.wait_for(service.stop(), 60.0)


async def test_a_server_that_starts_waits_for_what_is_released() -> None:
    releases, clock = SlowTrunks(), SettableClock()
    service = service_over(releases, clock)
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(0)

    is_waiting = not starting.done()
    releases.done.set()
    await starting

    assert is_waiting
    await service.stop()


async def test_a_failed_attempt_is_told_to_the_next_pass_and_made_again() -> None:
    releases, clock = SlowTrunks(error=ValueError("no disk")), SettableClock()
    releases.done.set()
    service = service_over(releases, clock)
    await service.tick()
    await asyncio.sleep(0)
    clock.now += SECOND

    with pytest.raises(ValueError, match="no disk"):
        await service.tick()
    await service.tick()
    await asyncio.sleep(0)

    assert releases.asked == 2
    await service.stop()


async def test_a_simulations_pass_lasts_until_the_release_is_ready() -> None:
    releases, clock = SlowTrunks(), SettableClock()
    service = service_over(releases, clock, waits=True)
    passing = asyncio.create_task(service.tick())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    is_waiting = not passing.done()
    releases.done.set()
    await passing

    assert is_waiting
    await service.stop()


class TwoPopulations(ScriptedModels):
    """TwoPopulations populations, of which the first one's release cannot be read."""

    async def population_names(self) -> list[PopulationName]:
        return [PopulationName("de"), EN]

    async def vocabulary(self, population: PopulationName) -> bytes:
        if population != EN:
            raise OSError("its blob is gone")
        return await super().vocabulary(population)


async def test_one_populations_broken_release_keeps_no_other_from_being_served() -> None:
    released = released_from(TwoPopulations())

    await released.refresh()

    assert released.get(EN).version == 0
    with pytest.raises(ApiError):
        released.get(PopulationName("de"))


async def test_heads_put_before_a_restart_are_carried_along_again() -> None:
    versions = ScriptedModels()
    for _ in range(3):
        versions.step()
    released = released_from(versions)
    await released.refresh()
    at_once = released.get(EN)

    for _ in range(5):
        await released.refresh()

    now = released.get(EN)
    assert at_once.maps == {}
    assert sorted(one.steps for one in now.maps.values()) == [1, 2, 3]
    assert {one.to_space for one in now.maps.values()} == {now.trunk.space}
    assert now.trunk is at_once.trunk


@dataclass
class PrunedModels(ScriptedModels):
    """ScriptedModels of which the older ones are gone."""

    oldest: int = 0

    async def released_model(self, population: PopulationName, version: int) -> ModelBytes:
        if version < self.oldest:
            raise ApiError(ProblemCode.MODEL_UNKNOWN, "It was pruned.")
        return await super().released_model(population, version)


async def test_a_version_that_was_pruned_ends_the_chain_and_not_the_service() -> None:
    versions = PrunedModels()
    released = released_from(versions)
    await released.refresh()
    for _ in range(3):
        versions.step()
    versions.oldest = 2

    await released.refresh()
    await released.refresh()

    now = released.get(EN)
    assert now.version == 3
    assert [one.steps for one in now.maps.values()] == [1]


@dataclass
class RolledBackModels(ScriptedModels):
    """ScriptedModels of which some were withdrawn."""

    withdrawn: set[int] = field(default_factory=set)

    async def released_model(self, population: PopulationName, version: int) -> ModelBytes:
        if version in self.withdrawn:
            raise ApiError(ProblemCode.MODEL_WITHDRAWN, "It was withdrawn.")
        return await super().released_model(population, version)


@pytest.mark.fault("D9")
async def test_after_a_rollback_the_restored_weights_answer_and_their_heads_fit_at_once() -> None:
    versions = RolledBackModels()
    released = released_from(versions)
    await released.refresh()
    restored = released.get(EN)
    versions.step()
    await released.refresh()

    versions.published.append(versions.published[0])
    versions.withdrawn = {1}
    await released.refresh()
    await released.refresh()
    now = released.get(EN)
    versions.step()
    await released.refresh()

    assert now.version == 2
    assert now.trunk.space == restored.trunk.space
    assert released.get(EN).version == 3
    assert restored.trunk.space in released.get(EN).maps


@pytest.mark.fault("D9")
async def test_no_map_leads_to_a_version_that_was_withdrawn_also_when_it_was_made_before() -> None:
    versions = RolledBackModels()
    versions.step()
    maps = HeadMapService(versions, PopulationModelInfos(versions))
    await maps.map_to(EN, 1)

    versions.withdrawn = {1}

    with pytest.raises(ApiError) as refused:
        await maps.map_to(EN, 1)
    assert refused.value.code is ProblemCode.MODEL_WITHDRAWN
