"""Profiles in memory: the most recent, of the heads as they are stored, and gone when nobody types."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.http.personal.conftest import head_bytes
from tests.unit.suggestions.test_released import EN, Versions, released_from

from keyflock_server.heads.heads import StoredHead
from keyflock_server.heads.reader import Languages
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.owners import Owner
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.suggestions.profiles import Profiles
from keyflock_server.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from keyflock_server.suggestions.released import ReleasedTrunk

MINUTE = timedelta(minutes=1)


@dataclass
class Stored:
    """What a store holds that others write to as well; each phone is its own user."""

    heads: dict[str, StoredHead] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    forgotten: set[str] = field(default_factory=set)

    def put(self, owner: str, word: str) -> None:
        self.heads[owner] = StoredHead(head_bytes(f"zoo {word}"), word.encode())

    async def owner(self, identity: DeviceIdentity) -> Owner:
        if identity.device in self.forgotten:
            raise Refused(ProblemCode.TOKEN_INVALID, "Enrol anew.")
        return Owner(identity.device)

    async def read(self, population: PopulationName, owner: Owner) -> StoredHead | None:
        del population
        self.reads.append(owner)
        return self.heads.get(owner)

    async def tag(self, population: PopulationName, owner: Owner) -> bytes | None:
        del population
        found = self.heads.get(owner)
        return None if found is None else found.tag


@pytest.fixture
async def trunk() -> ReleasedTrunk:
    released = released_from(Versions())
    await released.follow()
    return released.of(EN)


def profiles_of(stored: Stored, capacity: int = 10) -> Profiles:
    languages = Languages(Versions())
    return Profiles(
        stored,  # type: ignore[arg-type]
        languages,
        lambda: stored.now,
        Metrics(),
        capacity=capacity,
        trust=MINUTE,
    )


async def word_of(profiles: Profiles, phone: str, trunk: ReleasedTrunk) -> str | None:
    """The own word of the phone's user, as it is served."""
    profile = await profiles.of(DeviceIdentity(DeviceId(phone), EN), trunk)
    return None if profile is None else profile.words.word(profile.words.end_id - 1)


async def test_a_head_is_read_once_and_then_remembered(trunk: ReleasedTrunk) -> None:
    stored = Stored()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)

    found = [await word_of(profiles, "ann", trunk) for _ in range(3)]

    assert found == ["xylophone"] * 3
    assert stored.reads == ["ann"]


async def test_what_another_process_has_stored_or_erased_is_heard_within_the_minute(
    trunk: ReleasedTrunk,
) -> None:
    stored = Stored()
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
    with pytest.raises(Refused):
        await word_of(profiles, "ann", trunk)


async def test_the_same_head_is_not_read_again_after_the_minute(trunk: ReleasedTrunk) -> None:
    stored = Stored()
    stored.put("ann", "xylophone")
    profiles = profiles_of(stored)
    for _ in range(5):
        await word_of(profiles, "ann", trunk)
        stored.now += MINUTE

    assert stored.reads == ["ann"]


async def test_of_more_users_than_fit_those_who_typed_last_stay(trunk: ReleasedTrunk) -> None:
    stored = Stored()
    for name in ("ann", "bob", "cay"):
        stored.put(name, f"{name}word")
    profiles = profiles_of(stored, capacity=2)

    for name in ("ann", "bob", "ann", "cay", "ann", "bob"):
        assert await word_of(profiles, name, trunk) == f"{name}word"

    assert stored.reads == ["ann", "bob", "cay", "bob"]


async def test_nobodys_words_stay_in_memory_who_has_not_typed_for_an_hour(trunk: ReleasedTrunk) -> None:
    stored = Stored()
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
