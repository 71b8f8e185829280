"""Ids, names and deletion of populations and tasks, on every store."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, take_slot
from tests.contract.stores import STORES, new_store
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import (
    EN,
    NOW,
    POPULATION,
    ROUND,
    SPEC,
    TASK,
    VERSION,
    assignment,
    device,
)

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.availability import ArrivalCount
from keyflock_server.rounds.round import Cancelled, Phase
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, PopulationInUse, Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import CountedReport, PartialRecord, TaskRecord
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.population_deletion import mark_deleted
from keyflock_server.storage.sql.population_rows import require_population
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import devices

pytestmark = pytest.mark.fault("F14")

DE, EN_2, ENGLISH = PopulationName("de"), PopulationName("en~2"), PopulationName("english")
T = TaskName("t")


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    yield opened
    await opened.close()


def named(name: str, population: PopulationName = EN) -> TaskSpec:
    return msgspec.structs.replace(
        SPEC, task=msgspec.structs.replace(SPEC.task, name=name, population=population)
    )


async def add_population(store: RecordStore, id_: PopulationName, name: PopulationName | None = None) -> None:
    record = replace(POPULATION, name=id_, current_name=name)
    await store.populations.add(record, replace(VERSION, population=id_), audit=AUDIT)


async def fill(store: RecordStore) -> None:
    """A task that is over, with a round, a device, a personal model and all that belongs to them."""
    await store.tasks.add(replace(TASK, optimizer_state_key="state"), audit=AUDIT)
    await store.rounds.add(ROUND)
    await add_device(store, device("a", user="u" * 64))
    await take_slot(store, assignment("a"))
    await store.personal_models.put(HEAD, None)
    await store.verdicts.add({RoundId("t-1"): {"malformed": 1}})
    await store.arrivals.add([ArrivalCount(T, 490_000, 3, 2)])
    report = CountedReport(
        id=assignment("a").id,
        round_id=RoundId("t-1"),
        device=DeviceId("a"),
        report_digest=b"d",
        weight=1.0,
        session_shape="",
    )
    partial = PartialRecord(round_id=RoundId("t-1"), replica="r.1", key="p", count=1, weight=1.0)
    await count_reports(store, partial, [report], NOW)


async def end(store: RecordStore) -> None:
    await store.tasks.set_status(T, TaskStatus.CANCELLED)
    await store.rounds.advance(RoundId("t-1"), Cancelled("by an operator"), NOW, {})


@pytest.mark.parametrize("over", [TaskStatus.CANCELLED, TaskStatus.FINISHED])
async def test_a_task_that_is_over_is_not_revived_by_a_process_that_does_not_know_so_yet(
    store: RecordStore, over: TaskStatus
) -> None:
    await store.tasks.add(TASK, audit=AUDIT)
    await store.tasks.set_status(T, over)

    for late in TaskStatus:
        await store.tasks.set_status(T, late)

    found = await store.tasks.get(T)
    assert found is not None
    assert found.status is over
    assert await store.tasks.live() == {}


async def test_the_ids_of_a_name_are_found_in_their_order_and_nobody_elses(store: RecordStore) -> None:
    for name in ("t", "t~2", "t~10", "t~9", "t-2", "t.2", "tt", "t_", "T"):
        await store.tasks.add(
            TaskRecord(spec=named(name), status=TaskStatus.CANCELLED, created_at=NOW), audit=AUDIT
        )

    assert await store.tasks.ids_of(T) == ["t", "t~2", "t~9", "t~10"]
    assert await store.tasks.ids_of(TaskName("t_")) == ["t_"]
    assert await store.tasks.ids_of(TaskName("%")) == []
    found = await store.tasks.get(TaskName("t~10"))
    assert found is not None
    assert found.spec == named("t~10")


async def test_a_round_of_a_numbered_task_is_read_as_it_was_written(store: RecordStore) -> None:
    spec = named("t~2")
    await store.tasks.add(TaskRecord(spec=spec, status=TaskStatus.ACTIVE, created_at=NOW), audit=AUDIT)
    record = replace(ROUND, round=replace(ROUND.round, id=RoundId("t~2-1"), task=TaskName("t~2"), spec=spec))

    await store.rounds.add(record)

    assert await store.rounds.get(RoundId("t~2-1")) == record


async def test_a_population_is_found_by_its_id_and_every_name_that_it_was_given(store: RecordStore) -> None:
    await store.populations.rename(EN, ENGLISH, audit=AUDIT)
    await store.populations.rename(EN, PopulationName("en-GB"), audit=AUDIT)
    await store.populations.rename(EN, PopulationName("en-GB"), audit=AUDIT)

    found = [await store.populations.resolve(name) for name in ("en", "english", "en-GB", "xx", "")]
    record = await store.populations.get(EN)
    assert found == [EN, EN, EN, None, None]
    assert await store.populations.names(EN) == ["en", "en-GB", "english"]
    assert record == replace(POPULATION, current_name=PopulationName("en-GB"), revision=2)
    await store.populations.rename(EN, EN, audit=AUDIT)
    assert [one.shown_name for one in await store.populations.all()] == ["en"]


async def test_a_name_that_is_or_was_another_populations_is_refused(store: RecordStore) -> None:
    await add_population(store, DE)
    await store.populations.rename(EN, ENGLISH, audit=AUDIT)

    for taken in (EN, ENGLISH):
        with pytest.raises(AlreadyExists):
            await store.populations.rename(DE, taken, audit=AUDIT)
        with pytest.raises(AlreadyExists):
            await add_population(store, taken)
    with pytest.raises(AlreadyExists):
        await add_population(store, EN_2, ENGLISH)

    assert [one.shown_name for one in await store.populations.all()] == ["de", "english"]
    with pytest.raises(PopulationGone):
        await store.populations.rename(PopulationName("xx"), PopulationName("yy"), audit=AUDIT)
    assert await store.populations.resolve("yy") is None


async def test_a_population_with_a_task_or_a_round_that_is_not_over_is_not_deleted(
    store: RecordStore,
) -> None:
    await fill(store)

    with pytest.raises(PopulationInUse) as with_task:
        await store.populations.mark_deleted(EN, NOW, audit=AUDIT)
    await store.tasks.set_status(T, TaskStatus.CANCELLED)
    with pytest.raises(PopulationInUse) as with_round:
        await store.populations.mark_deleted(EN, NOW, audit=AUDIT)

    assert (with_task.value.tasks, with_task.value.rounds) == (("t",), ("t-1",))
    assert (with_round.value.tasks, with_round.value.rounds) == ((), ("t-1",))
    assert await store.populations.get(EN) == POPULATION
    assert await store.populations.resolve("en") == EN


async def test_a_deleted_population_is_nowhere_and_takes_nothing_any_more(store: RecordStore) -> None:
    await fill(store)
    await end(store)

    await store.populations.mark_deleted(EN, NOW, audit=AUDIT)

    populations = store.populations
    assert (await populations.get(EN), await populations.resolve("en")) == (None, None)
    assert (await populations.all(), await populations.versions(), await populations.names(EN)) == (
        [],
        [],
        [],
    )
    assert await populations.deleting() == [EN]
    assert (await store.tasks.all(), await store.tasks.get(T)) == ([], None)
    for refused in (
        add_device(store, device("b")),
        store.tasks.add(TaskRecord(spec=named("v"), status=TaskStatus.ACTIVE, created_at=NOW), audit=AUDIT),
        store.personal_models.put(HEAD, None),
        store.tasks.add(TASK, audit=AUDIT),
        store.rounds.add(replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2))),
        populations.rename(EN, ENGLISH, audit=AUDIT),
        populations.mark_deleted(EN, NOW, audit=AUDIT),
    ):
        with pytest.raises(PopulationGone):
            await refused
    copy = replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0))
    with pytest.raises(Superseded):
        await populations.roll_back(copy, ModelVersion(0), "worse", audit=AUDIT)


async def test_what_a_deleted_population_had_goes_part_by_part_and_only_its_id_stays(
    store: RecordStore,
) -> None:
    await fill(store)
    await add_population(store, DE)
    other = TaskRecord(spec=named("d", DE), status=TaskStatus.ACTIVE, created_at=NOW)
    await store.tasks.add(other, audit=AUDIT)
    await add_device(store, replace(device("d"), population=DE))
    await end(store)
    await store.populations.mark_deleted(EN, NOW, audit=AUDIT)

    await store.devices.forget([DeviceId("a")], [], lambda _device, _counts: (), NOW)
    owners = await store.personal_models.owners(EN, 10)
    await store.personal_models.delete(EN, owners)
    rounds = [await store.populations.delete_rounds(EN, 1) for _ in range(2)]
    keys = await store.populations.finish_deletion(EN)

    assert owners == [HEAD.owner]
    assert rounds == [1, 0]
    assert sorted(keys) == ["checkpoint", "download", "state"]
    assert await store.populations.deleting() == []
    assert await store.rounds.get(RoundId("t-1")) is None
    assert await store.rounds.phases(T) == dict[Phase, int]()
    assert await store.assignments.list_by_round(RoundId("t-1")) == []
    assert await store.rounds.partials(RoundId("t-1")) == []
    assert await store.verdicts.list_by_task(T) == {}
    assert await store.arrivals.since(T, 0) == []
    assert await store.tasks.all() == [other]
    assert (await store.tasks.get(T), await store.tasks.ids_of(T)) == (None, [T])
    assert await store.personal_models.owners(EN, 10) == []
    assert await store.populations.version(EN, ModelVersion(0)) is None
    assert await store.populations.ids_of(EN) == [EN]
    assert [one.population for one in await store.populations.versions()] == [DE]
    assert await store.devices.get(DeviceId("d")) is not None
    assert await store.populations.finish_deletion(EN) == ()


async def test_a_deleted_populations_names_are_free_and_its_id_is_not(store: RecordStore) -> None:
    await store.populations.rename(EN, ENGLISH, audit=AUDIT)
    await store.populations.mark_deleted(EN, NOW, audit=AUDIT)
    await store.populations.finish_deletion(EN)

    with pytest.raises(AlreadyExists):
        await store.populations.add(POPULATION, VERSION, audit=AUDIT)
    await add_population(store, EN_2, EN)
    await add_population(store, ENGLISH)

    assert [await store.populations.resolve(name) for name in ("en", "en~2", "english")] == [
        EN_2,
        EN_2,
        ENGLISH,
    ]
    assert await store.populations.ids_of(EN) == [EN, EN_2]
    assert {one.shown_name for one in await store.populations.all()} == {"en", "english"}


async def test_only_a_deleted_population_can_be_emptied(store: RecordStore) -> None:
    with pytest.raises(PopulationGone):
        await store.populations.finish_deletion(EN)

    assert await store.populations.version(EN, ModelVersion(0)) == VERSION


async def until_one_waits(engine: AsyncEngine) -> None:
    """Return when a transaction in this database waits for a lock of another one."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(60.0):
        while True:
            async with engine.connect() as connection:
                if (await connection.execute(waiting)).scalar_one():
                    return


async def test_a_deletion_waits_for_a_device_that_is_being_added_and_finds_it(postgres_url: str) -> None:
    store, engine = SqlStore(postgres_url), engine_for(postgres_url, "keyflock test")
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)

    async with engine.begin() as adding:
        await adding.run_sync(require_population, EN)
        marking = asyncio.create_task(store.populations.mark_deleted(EN, NOW, audit=AUDIT))
        await until_one_waits(engine)
        await adding.execute(insert(devices).values(asdict(device("a"))))
    await marking

    assert [one.id for one in await store.devices.page(EN, None, 10)] == ["a"]
    await store.close()
    await engine.dispose()


async def test_a_device_that_enrols_while_its_population_is_being_deleted_is_not_added(
    postgres_url: str,
) -> None:
    store, engine = SqlStore(postgres_url), engine_for(postgres_url, "keyflock test")
    await store.open()
    await store.populations.add(POPULATION, VERSION, audit=AUDIT)

    async with engine.begin() as deleting:
        await deleting.run_sync(mark_deleted, EN, NOW)
        adding = asyncio.create_task(add_device(store, device("a")))
        await until_one_waits(engine)
    with pytest.raises(PopulationGone):
        await adding

    assert await store.devices.page(EN, None, 10) == []
    await store.close()
    await engine.dispose()
