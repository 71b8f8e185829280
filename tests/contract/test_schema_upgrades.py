"""A database of every released schema, rows and all, becomes exactly what this release declares."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import func, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.audits import AUDIT

from keyflock_server.identity.owners import user_digest
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, PopulationName, RoundId
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql import schema
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import SCHEMA_REVISION, metadata

SCHEMAS = Path(__file__).parent / "schemas"
#: One ``<revision>.<dialect>.sql`` each, as that release made it, and one ``<revision>.rows.sql``.
RELEASED = ("0001", "0002")
#: Alembic's table with a database's revision.
NAME = "alembic_version"
OWNER_KEY = b"o" * 32
#: As in ``0002.rows.sql``.
USER = "vT0hJ3qkX2m9sY8bQw5Zrg"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"
    else:
        yield request.getfixturevalue("postgres_url")


async def run_file(engine: AsyncEngine, name: str) -> None:
    async with engine.begin() as connection:
        for statement in (SCHEMAS / name).read_text().split(";\n"):
            if statement.strip():
                await connection.exec_driver_sql(statement)


async def released(url: str, revision: str) -> None:
    """The database as that release would have left it."""
    engine = engine_for(url)
    await run_file(engine, f"{revision}.{engine.dialect.name}.sql")
    await run_file(engine, f"{revision}.rows.sql")
    await engine.dispose()


async def what_is_missing(url: str) -> list[str]:
    engine = engine_for(url)
    async with engine.connect() as connection:
        found = await connection.run_sync(schema.differences)
    await engine.dispose()
    return [repr(one) for one in found]


async def upgraded(url: str, owner_key: bytes | None = OWNER_KEY) -> schema.Upgraded:
    engine = engine_for(url, "keyflock db")
    try:
        return await schema.upgrade(engine, owner_key)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("revision", RELEASED)
async def test_an_upgrade_ends_in_exactly_the_declared_tables_and_keeps_every_row(
    url: str, revision: str
) -> None:
    await released(url, revision)

    done = await upgraded(url)

    assert done == schema.Upgraded(revision, SCHEMA_REVISION)
    # Each entry is what a new revision must still do to the database: ('add_table', …), ('add_column', …).
    assert await what_is_missing(url) == []
    engine = engine_for(url)
    async with engine.connect() as connection:
        for name in ("populations", "model_versions", "tasks", "rounds", "devices", "heads", "assignments"):
            count = select(func.count()).select_from(metadata.tables[name])
            assert (await connection.execute(count)).scalar_one() == 1, name
    await engine.dispose()
    store = SqlStore(url)
    await store.open()
    found = await store.assignments.get(RoundId("t-1"), DeviceId("a"))
    await store.close()
    assert found is not None
    assert found.id == AssignmentId("assignment-of-a")


@pytest.mark.fault("D2")
@pytest.mark.parametrize("revision", RELEASED)
async def test_an_upgrade_leaves_a_digest_of_a_users_secret_and_nothing_of_a_name(
    url: str, revision: str
) -> None:
    await released(url, revision)

    await upgraded(url)

    store = SqlStore(url)
    await store.open()
    device = await store.devices.get(DeviceId("a"))
    await store.close()
    assert device is not None
    digest = user_digest(OWNER_KEY, PopulationName("en"), USER)
    # In the first release's rows the user is called ann: that is no secret, and owned nothing.
    assert device.user_digest == (digest if revision == "0002" else None)


@pytest.mark.fault("D2")
def test_after_an_upgrade_a_users_name_is_in_no_file(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"
    asyncio.run(released(url, "0002"))
    before = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    asyncio.run(upgraded(url))

    assert USER.encode() in before
    assert all(USER.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.fault("D2")
async def test_after_an_upgrade_a_users_name_is_in_no_page_of_the_table(postgres_url: str) -> None:
    await released(postgres_url, "0002")

    await upgraded(postgres_url)

    engine = engine_for(postgres_url)
    async with engine.connect() as connection:
        path = (await connection.execute(text("SELECT pg_relation_filepath('devices')"))).scalar_one()
        pages = await connection.execute(text("SELECT pg_read_binary_file(:path)"), {"path": path})
        assert USER.encode() not in pages.scalar_one()
    await engine.dispose()


@pytest.mark.fault("D2")
@pytest.mark.parametrize(
    ("key", "fingerprint", "reason"),
    [(None, None, "Give --data-dir too"), (OWNER_KEY, "another", "used with another owner_key")],
)
async def test_names_are_digested_with_the_databases_own_key_or_nothing_is_changed(
    url: str, key: bytes | None, fingerprint: str | None, reason: str
) -> None:
    await released(url, "0002")
    before = await what_is_missing(url)
    if fingerprint is not None:
        engine = engine_for(url)
        async with engine.begin() as connection:
            claim = text("INSERT INTO cluster (name, value) VALUES ('owner_key', :value)")
            await connection.execute(claim, {"value": fingerprint})
        await engine.dispose()

    with pytest.raises(StorageError, match=reason):
        await upgraded(url, key)

    assert await what_is_missing(url) == before


async def test_every_revision_from_the_first_on_makes_the_declared_tables(url: str) -> None:
    engine = engine_for(url)
    async with engine.begin() as connection:
        await connection.run_sync(schema.run_revisions)
    await engine.dispose()

    assert await what_is_missing(url) == []


async def test_a_database_made_anew_has_the_declared_tables_and_needs_no_upgrade(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()

    again = await upgraded(url)

    assert again == schema.Upgraded(SCHEMA_REVISION, SCHEMA_REVISION)
    assert await what_is_missing(url) == []


async def test_a_database_made_anew_names_its_revision_in_the_table_that_alembic_would_make(url: str) -> None:
    engine = engine_for(url)

    async def revisions_table() -> tuple[list[str], list[str]]:
        async with engine.begin() as connection:
            found = await connection.run_sync(
                lambda sync: (
                    [
                        f"{one['name']} {one['type']} {one['nullable']}"
                        for one in inspect(sync).get_columns(NAME)
                    ],
                    inspect(sync).get_pk_constraint(NAME)["constrained_columns"],
                )
            )
            await connection.execute(text(f"DROP TABLE {NAME}"))
        return found

    await schema.prepare(engine)
    ours = await revisions_table()
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(schema.run_revisions)
    alembics = await revisions_table()
    await engine.dispose()

    assert ours == alembics == (["version_num VARCHAR(32) False"], ["version_num"])


async def test_an_older_database_is_refused_with_the_command_that_helps(url: str) -> None:
    await released(url, "0001")
    store = SqlStore(url)

    with pytest.raises(
        StorageError, match=f"schema 0001, this release works with {SCHEMA_REVISION}.*db upgrade"
    ):
        await store.open()
    await store.close()

    assert await what_is_missing(url) != []


async def test_a_newer_database_is_refused_and_left_alone(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.close()
    engine = engine_for(url)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(text("UPDATE cluster SET value = '9999' WHERE name = 'compatible_from'"))
    await engine.dispose()

    with pytest.raises(StorageError, match="schema 9999, which a newer release made"):
        await store.open()
    await store.close()
    with pytest.raises(StorageError, match="schema 9999, which a newer release made"):
        await upgraded(url)


async def test_processes_that_start_at_once_over_an_empty_database_do_not_collide(url: str) -> None:
    stores = [SqlStore(url) for _ in range(5)]

    await asyncio.gather(*(store.open() for store in stores))

    for store in stores:
        await store.close()
    assert await what_is_missing(url) == []


async def test_a_database_is_not_upgraded_under_running_servers(postgres_url: str) -> None:
    await released(postgres_url, "0001")
    server = engine_for(postgres_url)
    async with server.connect():
        with pytest.raises(StorageError, match="in use: 1 connections of keyflock serve"):
            await upgraded(postgres_url)
    await server.dispose()


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await released(url, "0001")
    before = await what_is_missing(url)

    run = command.upgrade

    def upgrade_and_break(configuration: Config, revision: str) -> None:
        run(configuration, revision)
        raise StorageError("power cut")

    monkeypatch.setattr(command, "upgrade", upgrade_and_break)
    with pytest.raises(StorageError, match="power cut"):
        await upgraded(url)

    assert await what_is_missing(url) == before


@pytest.mark.fault("F14")
@pytest.mark.parametrize("revision", RELEASED)
async def test_after_an_upgrade_a_population_is_found_by_its_name_and_can_be_renamed(
    url: str, revision: str
) -> None:
    await released(url, revision)

    await upgraded(url)

    store = SqlStore(url)
    await store.open()
    en, english = PopulationName("en"), PopulationName("english")
    assert await store.populations.resolve("en") == en
    await store.populations.rename(en, english, audit=AUDIT)
    assert await store.populations.names(en) == ["en", "english"]
    await store.close()


@pytest.mark.parametrize("revision", RELEASED)
async def test_after_an_upgrade_the_release_history_begins_with_what_keyboards_serve(
    url: str, revision: str
) -> None:
    await released(url, revision)

    await upgraded(url)

    store = SqlStore(url)
    await store.open()
    (state,) = (await store.releases.all_newest()).values()
    population = await store.populations.get(state.population)
    await store.close()
    assert population is not None
    assert (state.sequence, state.action, state.percent) == (0, ReleaseAction.CREATED, 100)
    assert (state.version, state.candidate) == (population.latest_version, None)
    assert (population.revision, population.archived_at) == (0, None)
