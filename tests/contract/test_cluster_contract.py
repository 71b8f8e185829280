"""One suite, every store: what all servers over one store agree on, their secrets above all."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.stores import STORES, new_store

from keyflock_server.cluster_keys import ClusterKeys
from keyflock_server.identity.keys import KeyFileError, SigningKey, SigningKeys
from keyflock_server.storage.errors import Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore

OLD, NEW = SigningKey.of(b"o" * 32), SigningKey.of(b"n" * 32)
OWNER = b"w" * 32


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    opened = new_store(request, tmp_path)
    await opened.open()
    yield opened
    await opened.close()


async def test_the_first_to_claim_a_name_sets_its_value(store: RecordStore) -> None:
    claimed = await asyncio.gather(*(store.cluster.claim("name", f"value {number}") for number in range(5)))

    assert len(set(claimed)) == 1
    assert await store.cluster.claim("name", "late") == claimed[0]


async def test_a_value_is_replaced_only_by_who_knows_it(store: RecordStore) -> None:
    await store.cluster.claim("name", "one")

    with pytest.raises(Superseded):
        await store.cluster.replace("name", "two", "three")
    await store.cluster.replace("name", "one", "two")

    assert await store.cluster.claim("name", "any") == "two"
    await store.cluster.forget(["name"])
    assert await store.cluster.claim("name", "any") == "any"


async def test_servers_with_the_same_secrets_start_and_one_with_others_does_not(store: RecordStore) -> None:
    await ClusterKeys(store, SigningKeys(OLD), OWNER).start()
    await ClusterKeys(store, SigningKeys(OLD), OWNER).start()

    with pytest.raises(KeyFileError, match="another signing_key than the one in this data folder"):
        await ClusterKeys(store, SigningKeys(NEW), OWNER).start()
    with pytest.raises(KeyFileError, match="another owner_key"):
        await ClusterKeys(store, SigningKeys(OLD), b"x" * 32).start()


async def test_a_rotated_signing_key_is_followed_and_the_file_from_before_is_refused(
    store: RecordStore,
) -> None:
    await ClusterKeys(store, SigningKeys(OLD), OWNER).start()

    await ClusterKeys(store, SigningKeys(NEW, (OLD,)), OWNER).start()
    await ClusterKeys(store, SigningKeys(NEW, (OLD,)), OWNER).start()

    with pytest.raises(KeyFileError):
        await ClusterKeys(store, SigningKeys(OLD), OWNER).start()
