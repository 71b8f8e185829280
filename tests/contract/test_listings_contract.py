"""Pages of rows for operators, on every store."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, give_back, take_slot
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

from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.rounds.funnel import Sessions
from keyflock_server.rounds.round import Cancelled, Phase
from keyflock_server.rounds.stored_task import with_ids
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.interfaces.listings import (
    DeviceFilter,
    RoundFilter,
    RoundPlace,
    TaskFilter,
    TaskPlace,
)
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import CountedReport, PartialRecord

DE = PopulationName("de")
R = TypeVar("R")
K = TypeVar("K")


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A store with the populations de and en."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.populations.add(replace(POPULATION, name=DE), replace(VERSION, population=DE), audit=AUDIT)
    yield opened
    await opened.close()


async def pages(
    read: Callable[[Any, int], Awaitable[Sequence[R]]], place: Callable[[R], Any], limit: int
) -> list[list[R]]:
    """All pages of a list, each from the place of the last row before it."""
    found: list[list[R]] = []
    after = None
    while page := list(await read(after, limit)):
        found.append(page)
        after = place(page[-1])
    return found


async def add_tasks(store: RecordStore) -> None:
    """The tasks a (de, paused), b, c (one instant) and d (later), of en."""
    for name, population, delay_s in (("a", DE, 0), ("c", EN, 1), ("b", EN, 1), ("d", EN, 2)):
        spec = with_ids(SPEC, TaskName(name), population)
        await store.tasks.add(
            replace(TASK, spec=spec, created_at=NOW + timedelta(seconds=delay_s)), audit=AUDIT
        )
    await store.tasks.set_status(TaskName("a"), TaskStatus.PAUSED)


async def add_rounds(store: RecordStore) -> None:
    """One round of each task: that of b is cancelled, those of b and c opened at one instant."""
    await add_tasks(store)
    for task, population, delay_s in (("a", DE, 0), ("b", EN, 1), ("c", EN, 1), ("d", EN, 2)):
        spec = with_ids(SPEC, TaskName(task), population)
        opened = replace(
            ROUND.round,
            id=RoundId(f"{task}-1"),
            task=TaskName(task),
            population=population,
            spec=spec,
            opened_at=NOW + timedelta(seconds=delay_s),
        )
        await store.rounds.add(replace(ROUND, round=opened))
    await store.rounds.advance(RoundId("b-1"), Cancelled("A test."), NOW, {})


async def test_populations_come_in_pages_ordered_by_id(store: RecordStore) -> None:
    found = await pages(store.listings.populations, lambda one: one.name, 1)

    assert [[one.name for one in page] for page in found] == [[DE], [EN]]


async def test_a_deleted_population_is_in_no_list(store: RecordStore) -> None:
    await add_rounds(store)
    for task in ("a",):
        await store.tasks.set_status(TaskName(task), TaskStatus.CANCELLED)
    await store.rounds.advance(RoundId("a-1"), Cancelled("A test."), NOW, {})

    await store.populations.mark_deleted(DE, NOW, audit=AUDIT)

    assert [one.name for one in await store.listings.populations(None, 9)] == [EN]
    assert [one.name for one in await store.listings.tasks(TaskFilter(), None, 9)] == ["b", "c", "d"]
    assert [one.round.id for one in await store.listings.rounds(RoundFilter(), None, 9)] == [
        "d-1",
        "c-1",
        "b-1",
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
async def test_tasks_come_oldest_first_and_each_once_whatever_the_page(
    store: RecordStore, limit: int
) -> None:
    await add_tasks(store)

    found = await pages(
        lambda after, limit: store.listings.tasks(TaskFilter(), after, limit),
        lambda one: TaskPlace(one.created_at, one.name),
        limit,
    )

    assert [one.name for page in found for one in page] == ["a", "b", "c", "d"]
    assert all(len(page) == limit for page in found[:-1])


@pytest.mark.parametrize("kind", TaskKind)
async def test_a_page_of_one_kind_is_full_though_tasks_of_others_lie_between(
    store: RecordStore, kind: TaskKind
) -> None:
    for number, one in enumerate([*TaskKind] * 3):
        header = msgspec.structs.replace(SPEC.task, name=TaskName(f"{one}-{number}"), kind=one)
        spec = msgspec.structs.replace(SPEC, task=header)
        at = NOW + timedelta(seconds=number)
        await store.tasks.add(replace(TASK, spec=spec, created_at=at), audit=AUDIT)

    found = await pages(
        lambda after, limit: store.listings.tasks(TaskFilter(kind=kind), after, limit),
        lambda one: TaskPlace(one.created_at, one.name),
        2,
    )

    assert [len(page) for page in found] == [2, 1]
    assert {one.spec.kind for page in found for one in page} == {kind}


async def test_tasks_are_filtered_by_population_and_status(store: RecordStore) -> None:
    await add_tasks(store)
    listings = store.listings

    of_de = await listings.tasks(TaskFilter(population=DE), None, 9)
    active = await listings.tasks(TaskFilter(status=TaskStatus.ACTIVE), None, 9)
    archived = await listings.tasks(TaskFilter(is_archived=True), None, 9)

    assert [one.name for one in of_de] == ["a"]
    assert [one.name for one in active] == ["b", "c", "d"]
    assert archived == []


@pytest.mark.parametrize("limit", [1, 2, 9])
async def test_rounds_come_newest_first_and_each_once_whatever_the_page(
    store: RecordStore, limit: int
) -> None:
    await add_rounds(store)

    found = await pages(
        lambda after, limit: store.listings.rounds(RoundFilter(), after, limit),
        lambda one: RoundPlace(one.round.opened_at, one.round.id),
        limit,
    )

    assert [one.round.id for page in found for one in page] == ["d-1", "c-1", "b-1", "a-1"]


async def test_rounds_are_filtered_by_task_population_and_phase(store: RecordStore) -> None:
    await add_rounds(store)

    async def ids(wanted: RoundFilter) -> list[str]:
        return [one.round.id for one in await store.listings.rounds(wanted, None, 9)]

    assert await ids(RoundFilter(task=TaskName("c"))) == ["c-1"]
    assert await ids(RoundFilter(population=DE)) == ["a-1"]
    assert await ids(RoundFilter(phase=Phase.CANCELLED)) == ["b-1"]
    assert await ids(RoundFilter(population=DE, phase=Phase.CANCELLED)) == []


async def test_a_round_that_opens_meanwhile_moves_nothing(store: RecordStore) -> None:
    await add_rounds(store)
    first = (await store.listings.rounds(RoundFilter(), None, 1))[0].round
    newer = replace(
        ROUND.round, id=RoundId("b-2"), task=TaskName("b"), sequence=2, opened_at=NOW + timedelta(days=1)
    )

    await store.rounds.add(replace(ROUND, round=newer))

    rest = await store.listings.rounds(RoundFilter(), RoundPlace(first.opened_at, first.id), 9)
    assert [one.round.id for one in rest] == ["c-1", "b-1", "a-1"]


async def test_what_a_page_shows_of_its_tasks_and_rounds_is_read_at_once(store: RecordStore) -> None:
    await add_rounds(store)
    await store.verdicts.add({RoundId("c-1"): {"too_long": 2}, RoundId("d-1"): {"malformed": 1}})
    b, c = TaskName("b"), TaskName("c")

    phases = await store.listings.phases([b, c, TaskName("nobody")])
    verdicts = await store.listings.verdicts([RoundId("b-1"), RoundId("c-1")])

    assert phases == {b: {Phase.CANCELLED: 1}, c: {Phase.COLLECTING: 1}}
    assert verdicts == {RoundId("c-1"): {"too_long": 2}}
    assert await store.listings.held_rounds([b, c]) == {}


async def test_what_a_page_shows_of_its_populations_is_read_at_once(store: RecordStore) -> None:
    await add_tasks(store)
    await add_device(store, device("x"))
    await store.populations.rename(DE, PopulationName("de-DE"), audit=AUDIT)
    asked = [DE, EN, PopulationName("xx")]

    homes = await store.listings.homes(asked)
    names = await store.listings.names(asked)

    assert {name: home.shown_name for name, home in homes.items()} == {DE: "de-DE", EN: EN}
    assert (names.get(DE), names.get(EN)) == ([DE, "de-DE"], [EN])
    assert await store.listings.devices_enrolled(asked) == {EN: 1}
    assert await store.listings.used_ids([TaskName("a"), TaskName("a~2")]) == {"a"}


async def test_a_rounds_sessions_and_report_times_are_counted(store: RecordStore) -> None:
    await store.tasks.add(TASK, audit=AUDIT)
    await store.rounds.add(ROUND)
    for name in ("a", "b", "c", "d"):
        await add_device(store, device(name))
        await take_slot(store, assignment(name))
    partial = PartialRecord(round_id=ROUND.round.id, replica="r", key="k", count=2, weight=2.0)
    reports = [
        CountedReport(
            id=assignment(name).id,
            round_id=ROUND.round.id,
            device=DeviceId(name),
            report_digest=b"d" * 32,
            weight=1.0,
            session_shape="-v[]+^",
            received_at=NOW + timedelta(seconds=delay_s),
        )
        for name, delay_s in (("a", 30), ("b", 20))
    ]
    await count_reports(store, partial, reports, NOW + timedelta(seconds=40))
    await give_back(store, assignment("c"), "-v[!", NOW)

    assert await store.listings.sessions(ROUND.round.id) == [
        Sessions("counted", "-v[]+^", 2),
        Sessions("assigned", "", 1),
        Sessions("failed", "-v[!", 1),
    ]
    assert await store.listings.report_times(ROUND.round.id, 9) == [20.0, 30.0]
    assert await store.listings.sessions(RoundId("t-9")) == []


async def test_personal_models_are_counted_with_their_bytes(store: RecordStore) -> None:
    await store.personal_models.put(HEAD, None)

    assert await store.listings.personal_models(EN) == (1, len(HEAD.sealed))
    assert await store.listings.personal_models(DE) == (0, 0)


async def test_devices_are_filtered_and_come_ordered_by_id(store: RecordStore) -> None:
    await add_device(store, replace(device("c"), tier=2, app_build=7))
    await add_device(store, replace(device("a"), locale="en-GB"))
    await add_device(store, device("b"))
    await add_device(store, replace(device("d"), population=DE))
    until = NOW + timedelta(days=1)
    assert await store.devices.set_quarantine(DeviceId("b"), None, b"{}", until, NOW)

    async def ids(after: str | None = None, limit: int = 9, **wanted: Any) -> list[str]:  # noqa: ANN401
        filtered = DeviceFilter(population=EN, **{"now": NOW, **wanted})
        behind = None if after is None else DeviceId(after)
        return [one.id for one in await store.listings.devices(filtered, behind, limit)]

    assert await ids() == ["a", "b", "c"]
    assert await ids("a", 1) == ["b"]
    assert await ids(is_quarantined=True) == ["b"]
    assert await ids(is_quarantined=True, now=until) == []
    assert await ids(is_quarantined=False) == ["a", "c"]
    assert await ids(tier=2) == ["c"]
    assert await ids(locale="en-GB") == ["a"]
    assert await ids(app_build_min=2, app_build_max=7) == ["c"]
    assert await ids(app_build_max=6) == ["a", "b"]
