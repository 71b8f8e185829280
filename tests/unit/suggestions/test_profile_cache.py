"""Profiles in memory: the most recent, of the heads as they are stored, and gone when nobody types."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.http.personal.conftest import head_bytes
from tests.unit.suggestions.test_released_trunks import EN, ScriptedModels, released_from

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.personal_models.decode_thread_pool import DecodeThreadPool
from keyflock_server.personal_models.population_model_info import PopulationModelInfos
from keyflock_server.personal_models.service import StoredPersonalModel
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.suggestions.profile_cache import ProfileCache
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from keyflock_server.suggestions.released_trunks import ReleasedTrunk

MINUTE = timedelta(minutes=1)


@dataclass
class ScriptedModelStore:
    """What a store holds that others write to as well; each phone is its own user."""

    heads: dict[str, StoredPersonalModel] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    forgotten: set[str] = field(default_factory=set)

    def put(self, owner: str, word: str) -> None:
        self.heads[owner] = StoredPersonalModel(head_bytes(f"zoo {word}"), word.encode())

    async def owner(self, identity: DeviceIdentity) -> Owner:
        if identity.device in self.forgotten:
            raise ApiError(ProblemCode.TOKEN_INVALID, "Enrol anew.")
        return Owner(identity.device)

    async def read(self, population: PopulationName, owner: Owner) -> StoredPersonalModel | None:
        del population
        self.reads.append(owner)
        return self.heads.get(owner)

    async def tag(self, population: PopulationName, owner: Owner) -> bytes | None:
        del population
        found = self.heads.get(owner)
        return None if found is None else found.tag


@pytest.fixture
async def trunk() -> ReleasedTrunk:
    released = released_from(ScriptedModels())
    await released.refresh()
    return released.get(EN)


def profiles_of(
    stored: ScriptedModelStore, max_bytes: int = 1_000_000, metrics: Metrics | None = None
) -> ProfileCache:
    languages = PopulationModelInfos(ScriptedModels())
    return ProfileCache(
        stored,  # type: ignore[arg-type]
        languages,
        lambda: stored.now,
        metrics or Metrics(),
        threads=DecodeThreadPool(),
        max_bytes=max_bytes,
        ttl=MINUTE,
    )


async def word_of(profiles: ProfileCache, phone: str, trunk: ReleasedTrunk) -> str | None:
    """The own word of the phone's user, as it is served."""
    profile = await profiles.get(DeviceIdentity(DeviceId(phone), EN), trunk)
    return None if profile is None else profile.words.word(profile.words.end_id - 1)


async def size_of_one(stored: ScriptedModelStore, trunk: ReleasedTrunk) -> float:
    """What a profile and its entry count; all names have three letters."""
    metrics = Metrics()
    await word_of(profiles_of(stored, metrics=metrics), "ann", trunk)
    stored.reads.clear()
    return metrics.registry.get_sample_value("keyflock_suggestion_profile_bytes") or 0.0


async def test_a_head_is_read_once_and_then_remembered(trunk: ReleasedTrunk) -> None:
    stored = ScriptedModelStore()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)

    found = [await word_of(profiles, "ann", trunk) for _ in range(3)]

    assert found == ["xylophone"] * 3
    assert stored.reads == ["ann"]


async def test_what_another_process_has_stored_or_erased_is_heard_within_the_minute(
    trunk: ReleasedTrunk,
) -> None:
    stored = ScriptedModelStore()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)
    before = await word_of(profiles, "ann", trunk)

    stored.put("ann", "yurt")
    stored.now += MINUTE
    after = await word_of(profiles, "ann", trunk)
    del stored.heads["ann"]
    stored.now += MINUTE

    assert (before, after) == ("xylophone", "yurt")
    assert await word_of(profiles, "ann", trunk) is None
    stored.forgotten.add("ann")
    stored.now += MINUTE
    with pytest.raises(ApiError):
        await word_of(profiles, "ann", trunk)


async def test_the_same_head_is_not_read_again_after_the_minute(trunk: ReleasedTrunk) -> None:
    stored = ScriptedModelStore()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)
    for _ in range(5):
        await word_of(profiles, "ann", trunk)
        stored.now += MINUTE

    assert stored.reads == ["ann"]


async def test_of_more_users_than_fit_those_who_typed_last_stay(trunk: ReleasedTrunk) -> None:
    stored = ScriptedModelStore()
    for name in ("ann", "bob", "cay"):
        stored.put(name, f"{name}word")
    one_bytes = await size_of_one(stored, trunk)
    metrics = Metrics()
    profiles = profiles_of(stored, max_bytes=int(2.5 * one_bytes), metrics=metrics)

    for name in ("ann", "bob", "ann", "cay", "ann", "bob"):
        assert await word_of(profiles, name, trunk) == f"{name}word"

    assert stored.reads == ["ann", "bob", "cay", "bob"]
    assert metrics.registry.get_sample_value("keyflock_suggestion_profile_bytes") == 2 * one_bytes


@pytest.mark.fault("D15")
async def test_a_profile_is_counted_until_it_is_dropped_and_one_that_is_too_large_stands_alone(
    trunk: ReleasedTrunk,
) -> None:
    stored, metrics = ScriptedModelStore(), Metrics()
    for name in ("ann", "bob"):
        stored.put(name, f"{name}word")
    profiles = profiles_of(stored, max_bytes=1, metrics=metrics)

    for name in ("ann", "bob", "bob"):
        await word_of(profiles, name, trunk)
    held_bytes = metrics.registry.get_sample_value("keyflock_suggestion_profile_bytes")
    profiles.drop(Owner("bob"))

    assert stored.reads == ["ann", "bob"]
    assert held_bytes is not None
    assert held_bytes > 1_000
    assert metrics.registry.get_sample_value("keyflock_suggestion_profile_bytes") == 0


@pytest.mark.fault("D11")
async def test_a_profile_that_has_no_thread_is_asked_for_again_and_not_taken_for_none(
    trunk: ReleasedTrunk,
) -> None:
    stored = ScriptedModelStore()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)
    threads, profiles._threads = profiles._threads, DecodeThreadPool(max_pending=0)

    with pytest.raises(ApiError) as refused:
        await word_of(profiles, "ann", trunk)
    profiles._threads = threads

    assert refused.value.code is ProblemCode.OVERLOADED
    assert await word_of(profiles, "ann", trunk) == "xylophone"


async def test_nobodys_words_stay_in_memory_who_has_not_typed_for_an_hour(trunk: ReleasedTrunk) -> None:
    stored = ScriptedModelStore()
    for name in ("ann", "bob"):
        stored.put(name, f"{name}word")
    profiles = profiles_of(stored)
    for name in ("ann", "bob"):
        await word_of(profiles, name, trunk)
    stored.now += 59 * MINUTE
    await word_of(profiles, "bob", trunk)
    stored.now += 2 * MINUTE

    profiles.drop_unused()

    assert list(profiles._profiles) == ["bob"]


@pytest.mark.fault("F14")
async def test_a_user_of_a_deleted_population_has_no_profile_in_the_next_of_its_name(
    trunk: ReleasedTrunk,
) -> None:
    stored = ScriptedModelStore()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)
    before = await word_of(profiles, "ann", trunk)
    del stored.heads["ann"]  # by another process

    anew = await profiles.get(DeviceIdentity(DeviceId("ann"), PopulationName("en~2")), trunk)

    assert (before, anew) == ("xylophone", None)
    assert stored.reads == ["ann", "ann"]
