"""A PostgreSQL that goes away, comes back, or says no: errors that can be acted on, and never a password."""

import asyncio

import pytest
from sqlalchemy import text
from tests.contract.audits import AUDIT
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import EN, POPULATION, VERSION
from tests.services.postgres import PASSWORD, PostgresServer

from keyflock_server.storage.blobs import blobs_at
from keyflock_server.storage.errors import StorageError, StorageUnavailable
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.store import SqlStore


async def test_a_database_that_is_gone_is_unavailable_and_used_again_when_it_is_back(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    store = SqlStore(postgres_url)
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)

    postgres_server.stop()
    with pytest.raises(StorageUnavailable, match="cannot be used now") as reading:
        await store.populations.all()
    with pytest.raises(StorageUnavailable):
        await store.cluster.claim("name", "value")
    postgres_server.start()
    back = await store.populations.all()
    await store.close()

    assert back == [POPULATION]
    assert PASSWORD not in str(reading.value)


async def test_a_connection_that_is_cut_in_the_middle_undoes_its_transaction(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    await store.open()
    engine = engine_for(postgres_url)
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    other = engine_for(postgres_url)

    async def write_and_be_cut() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO cluster VALUES ('name', 'half')"))
            async with other.connect() as killer:
                await killer.execute(cut)
            await connection.execute(text("INSERT INTO cluster VALUES ('name 2', 'half')"))

    with pytest.raises(StorageUnavailable):
        await write_and_be_cut()

    assert await store.cluster.claim("name", "whole") == "whole"
    for one in (engine, other):
        await one.dispose()
    await store.close()


async def test_a_lock_that_is_not_let_go_is_unavailable(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyflock_server.storage.sql.engine.LOCK_TIMEOUT_S", 0.05)
    store = SqlStore(postgres_url)
    await store.open()
    holder = engine_for(postgres_url)

    async with holder.begin() as connection:
        await connection.execute(text("LOCK TABLE cluster"))
        with pytest.raises(StorageUnavailable, match="lock timeout"):
            await store.cluster.claim("name", "value")

    assert await store.cluster.claim("name", "value") == "value"
    await holder.dispose()
    await store.close()


async def test_writers_of_one_owners_first_head_do_not_collide(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)

    await asyncio.gather(*(store.personal_models.put(HEAD, None) for _ in range(8)))

    assert await store.personal_models.get(EN, HEAD.owner) == HEAD
    await store.close()


async def test_a_vacuum_says_when_a_reader_still_sees_what_was_deleted(postgres_url: str) -> None:
    store = SqlStore(postgres_url)
    await store.open()
    reader = engine_for(postgres_url)

    async with reader.connect() as connection:
        await connection.execution_options(isolation_level="REPEATABLE READ")
        await connection.execute(text("SELECT * FROM heads"))
        in_the_way = await store.personal_models.scrub()
    afterwards = await store.personal_models.scrub()

    assert (in_the_way, afterwards) == (False, True)
    await reader.dispose()
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://keyflock:{PASSWORD}@127.0.0.1/keyflock",
        f"keyflock:{PASSWORD}@127.0.0.1/keyflock",
        f"postgresql://keyflock:{PASSWORD}@127.0.0.1:port/keyflock",
    ],
)
def test_a_url_that_is_not_understood_is_not_repeated(url: str) -> None:
    with pytest.raises(StorageError, match="The database URL is not understood") as refused:
        SqlStore(url)

    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["s3://key:planted@bucket/prefix", "s3://", "file://host/path", "gs://bucket", "s3://b?secret=planted"],
)
def test_a_blob_url_that_is_not_understood_is_not_repeated(url: str) -> None:
    with pytest.raises(StorageError, match="The blob URL is not understood") as refused:
        blobs_at(url)

    assert "planted" not in str(refused.value)


async def test_a_blob_store_that_is_gone_is_unavailable(
    s3_blobs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyflock_server.storage.blobs.RETRIES", 0)
    unreachable = blobs_at("s3://bucket/prefix?endpoint=http://127.0.0.1:1")
    no_bucket = blobs_at(s3_blobs_url.replace("s3://keyflock-", "s3://no-such-"))

    with pytest.raises(StorageUnavailable, match="Blob a/b cannot be written"):
        await unreachable.put("a/b", b"1")
    with pytest.raises(StorageUnavailable, match="cannot be listed"):
        _ = [blob async for blob in unreachable.list_blobs()]
    with pytest.raises(StorageError, match="a/b"):
        await no_bucket.get("a/b")
