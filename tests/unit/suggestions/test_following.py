"""The desk follows releases beside the passes, not in them; one release in trouble troubles no other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.suggestions.test_released import EN, Body, Versions, released_from

from keyflock_server.heads.maps import HeadMaps
from keyflock_server.heads.reader import Languages
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator import PopulationView
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.suggestions.released import ReleasedTrunk
from keyflock_server.suggestions.service import SuggestionDesk
from keyflock_server.telemetry.metrics import Metrics

SECOND = timedelta(seconds=1)


@dataclass
class Slow:
    """Releases that take until somebody lets them."""

    asked: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def of(self, population: PopulationName) -> ReleasedTrunk:
        raise Refused(ProblemCode.NOT_READY, f"{population} is not ready.")

    def close(self) -> None:
        """Nothing is compiled here."""

    async def follow(self) -> None:
        self.asked += 1
        await self.done.wait()
        if self.error is not None:
            raise self.error


@dataclass
class Clock:
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def desk_over(releases: Slow, clock: Clock, *, waits: bool = False) -> SuggestionDesk:
    return SuggestionDesk(releases, None, clock, Metrics(), waits=waits)


async def test_a_pass_does_not_wait_for_a_release_that_is_compiled() -> None:
    releases, clock = Slow(), Clock()
    desk = desk_over(releases, clock)

    await asyncio.wait_for(desk.tick(), 10.0)
    await asyncio.sleep(0)
    clock.now += 5 * SECOND
    await asyncio.wait_for(desk.tick(), 10.0)
    await asyncio.sleep(0)

    assert releases.asked == 1
    await asyncio.wait_for(desk.stop(), 10.0)


async def test_a_server_that_starts_waits_for_what_is_released() -> None:
    releases, clock = Slow(), Clock()
    desk = desk_over(releases, clock)
    starting = asyncio.create_task(desk.start())
    await asyncio.sleep(0)

    is_waiting = not starting.done()
    releases.done.set()
    await starting

    assert is_waiting
    await desk.stop()


async def test_a_failed_attempt_is_told_to_the_next_pass_and_made_again() -> None:
    releases, clock = Slow(error=ValueError("no disk")), Clock()
    releases.done.set()
    desk = desk_over(releases, clock)
    await desk.tick()
    await asyncio.sleep(0)
    clock.now += SECOND

    with pytest.raises(ValueError, match="no disk"):
        await desk.tick()
    await desk.tick()
    await asyncio.sleep(0)

    assert releases.asked == 2
    await desk.stop()


async def test_a_simulations_pass_lasts_until_the_release_is_ready() -> None:
    releases, clock = Slow(), Clock()
    desk = desk_over(releases, clock, waits=True)
    passing = asyncio.create_task(desk.tick())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    is_waiting = not passing.done()
    releases.done.set()
    await passing

    assert is_waiting
    await desk.stop()


class Two(Versions):
    """Two populations, of which the first one's release cannot be read."""

    async def populations(self) -> list[PopulationView]:
        (sound,) = await super().populations()
        broken = PopulationView(
            name=PopulationName("de"), model_version=0, parameter_count=1, vocabulary_size=12, devices=0
        )
        return [broken, sound]

    async def vocabulary(self, population: PopulationName) -> bytes:
        if population != EN:
            raise OSError("its blob is gone")
        return await super().vocabulary(population)


async def test_one_populations_broken_release_keeps_no_other_from_being_served() -> None:
    released = released_from(Two())

    await released.follow()

    assert released.of(EN).version == 0
    with pytest.raises(Refused):
        released.of(PopulationName("de"))


async def test_heads_put_before_a_restart_are_carried_along_again() -> None:
    versions = Versions()
    for _ in range(3):
        versions.step()
    released = released_from(versions)
    await released.follow()
    at_once = released.of(EN)

    for _ in range(5):
        await released.follow()

    now = released.of(EN)
    assert at_once.maps == {}
    assert sorted(one.steps for one in now.maps.values()) == [1, 2, 3]
    assert {one.to_space for one in now.maps.values()} == {now.trunk.space}
    assert now.trunk is at_once.trunk


@dataclass
class Pruned(Versions):
    """Versions of which the older ones are gone."""

    oldest: int = 0

    async def released_model(self, population: PopulationName, version: int) -> Body:
        if version < self.oldest:
            raise Refused(ProblemCode.MODEL_UNKNOWN, "It was pruned.")
        return await super().released_model(population, version)


async def test_a_version_that_was_pruned_ends_the_chain_and_not_the_service() -> None:
    versions = Pruned()
    released = released_from(versions)
    await released.follow()
    for _ in range(3):
        versions.step()
    versions.oldest = 2

    await released.follow()
    await released.follow()

    now = released.of(EN)
    assert now.version == 3
    assert [one.steps for one in now.maps.values()] == [1]


@dataclass
class RolledBack(Versions):
    """Versions of which some were withdrawn."""

    withdrawn: set[int] = field(default_factory=set)

    async def released_model(self, population: PopulationName, version: int) -> Body:
        if version in self.withdrawn:
            raise Refused(ProblemCode.MODEL_WITHDRAWN, "It was withdrawn.")
        return await super().released_model(population, version)


@pytest.mark.fault("D9")
async def test_after_a_rollback_the_restored_weights_answer_and_their_heads_fit_at_once() -> None:
    versions = RolledBack()
    released = released_from(versions)
    await released.follow()
    restored = released.of(EN)
    versions.step()
    await released.follow()

    versions.published.append(versions.published[0])
    versions.withdrawn = {1}
    await released.follow()
    await released.follow()
    now = released.of(EN)
    versions.step()
    await released.follow()

    assert now.version == 2
    assert now.trunk.space == restored.trunk.space
    assert released.of(EN).version == 3
    assert restored.trunk.space in released.of(EN).maps


@pytest.mark.fault("D9")
async def test_no_map_leads_to_a_version_that_was_withdrawn_also_when_it_was_made_before() -> None:
    versions = RolledBack()
    versions.step()
    maps = HeadMaps(versions, Languages(versions))
    await maps.to(EN, 1)

    versions.withdrawn = {1}

    with pytest.raises(Refused) as refused:
        await maps.to(EN, 1)
    assert refused.value.code is ProblemCode.MODEL_WITHDRAWN
