"""One suite, every store: encrypted heads."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import EN, NOW, POPULATION, VERSION, device

from keyflock_server.protocol.identifiers import PopulationName, UserDigest
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import PersonalModelRecord

HEAD = PersonalModelRecord(
    population=EN, owner="a" * 64, tag=b"\x01" * 16, key_id="k1", sealed=b"sealed bytes", updated_at=NOW
)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    yield opened
    await opened.close()


async def test_a_head_comes_back_as_it_went_in(store: RecordStore) -> None:
    await store.personal_models.put(HEAD, None)

    assert await store.personal_models.get(EN, HEAD.owner) == HEAD
    assert await store.personal_models.get(EN, "b" * 64) is None
    assert await store.personal_models.get(PopulationName("xx"), HEAD.owner) is None


async def test_the_last_writer_wins(store: RecordStore) -> None:
    later = replace(HEAD, tag=b"\x02" * 16, sealed=b"other bytes")
    await store.personal_models.put(HEAD, None)

    await store.personal_models.put(later, None)

    assert await store.personal_models.get(EN, HEAD.owner) == later


async def test_a_writer_that_names_another_head_changes_nothing(store: RecordStore) -> None:
    with pytest.raises(Superseded):
        await store.personal_models.put(HEAD, HEAD.tag)
    await store.personal_models.put(HEAD, b"")

    with pytest.raises(Superseded):
        await store.personal_models.put(replace(HEAD, sealed=b"late"), b"")
    with pytest.raises(Superseded):
        await store.personal_models.put(replace(HEAD, sealed=b"late"), b"\x09" * 16)

    assert await store.personal_models.get(EN, HEAD.owner) == HEAD
    await store.personal_models.put(replace(HEAD, sealed=b"in time"), HEAD.tag)
    found = await store.personal_models.get(EN, HEAD.owner)
    assert found is not None
    assert found.sealed == b"in time"


async def test_deleting_counts_what_was_there(store: RecordStore) -> None:
    await store.personal_models.put(HEAD, None)
    await store.personal_models.put(replace(HEAD, owner="b" * 64), None)

    assert await store.personal_models.delete(EN, ["a" * 64, "b" * 64, "c" * 64]) == 2
    assert await store.personal_models.delete(EN, ["a" * 64]) == 0
    assert await store.personal_models.scrub()


async def test_heads_under_other_keys_are_found_and_sealed_anew(store: RecordStore) -> None:
    await store.personal_models.put(HEAD, None)
    await store.personal_models.put(replace(HEAD, owner="b" * 64, key_id="k2"), None)

    old = await store.personal_models.under_other_keys("k2", 10, "")
    await store.personal_models.reseal(replace(old[0], key_id="k2", sealed=b"anew"), HEAD.sealed)

    assert [record.owner for record in old] == [HEAD.owner]
    assert await store.personal_models.get(EN, HEAD.owner) == replace(HEAD, key_id="k2", sealed=b"anew")
    assert await store.personal_models.under_other_keys("k2", 10, "") == []


async def test_heads_under_other_keys_come_in_pages_by_owner(store: RecordStore) -> None:
    for owner in "ecadb":
        await store.personal_models.put(replace(HEAD, owner=owner * 64), None)

    first = await store.personal_models.under_other_keys("k2", 2, "")
    second = await store.personal_models.under_other_keys("k2", 9, first[-1].owner)

    assert [record.owner[0] for record in (*first, *second)] == ["a", "b", "c", "d", "e"]


async def test_a_head_that_was_put_meanwhile_is_not_overwritten_by_a_rotation(store: RecordStore) -> None:
    newer = replace(HEAD, tag=b"\x02" * 16, sealed=b"newer")
    await store.personal_models.put(newer, None)

    await store.personal_models.reseal(replace(HEAD, key_id="k2", sealed=b"anew"), HEAD.sealed)

    assert await store.personal_models.get(EN, HEAD.owner) == newer


async def test_a_users_devices_are_found(store: RecordStore) -> None:
    for name, user in (("a", "ann"), ("b", "ann"), ("c", "bob"), ("d", None)):
        await add_device(store, device(name, user))

    found = await store.devices.list_by_users([UserDigest("ann"), UserDigest("nobody")])

    assert [one.id for one in found] == ["a", "b"]
    assert await store.devices.list_by_users([]) == []


@pytest.mark.fault("D15")
async def test_what_heads_take_is_known_of_each_and_of_all(store: RecordStore) -> None:
    before = await store.personal_models.stored_bytes()
    await store.personal_models.put(HEAD, None)
    await store.personal_models.put(replace(HEAD, owner="b" * 64, sealed=b"x" * 1_000), None)
    await store.personal_models.put(replace(HEAD, tag=b"\x02" * 16, sealed=b"x" * 500), None)
    sizes = [await store.personal_models.size(EN, owner * 64) for owner in "abc"]
    of_two = await store.personal_models.stored_bytes()

    await store.personal_models.reseal(replace(HEAD, key_id="k2", sealed=b"x" * 600), b"x" * 500)
    resealed = await store.personal_models.stored_bytes()
    await store.personal_models.delete(EN, ["b" * 64])

    assert (before, sizes, of_two, resealed) == (0, [500, 1_000, 0], 1_500, 1_600)
    assert await store.personal_models.stored_bytes() == 600
