"""A deleted population leaves nothing but its id, also when the process is killed in the middle."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.audits import AUDIT
from tests.memory_store.blobs import MemoryBlobStore
from tests.memory_store.store import MemoryStore
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_populations, listed_rounds, listed_tasks
from tests.unit.coordinator.test_crash_between_steps import ProcessKilled, crash_after, revive

from keyflock_server.coordinator import population_deletion
from keyflock_server.coordinator.enrolment import EnrolmentResult
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import EnrolRequest, Receipt, Refusal
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.protocol.operator.populations import DeletionOrder, PopulationDeleted
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.records import PersonalModelRecord

pytestmark = pytest.mark.fault("F14")

ANN, BOB = "vT0hJ3qkX2m9sY8bQw5Zrg", "Qw5ZrgvT0hJ3qkX2m9sY8b"
EN_2 = PopulationName("en~2")
#: More than the writes of one deletion; a budget beyond them means that nothing fails.
WRITES_OF_A_DELETION = 12
OUT = QuarantineOrder(reason="A test.", days=10)


async def enrolled(harness: CoordinatorHarness, user: str | None = None) -> DeviceIdentity:
    request = EnrolRequest(protocol=1, population="en", app_build=5, locale="en-US", user=user)
    device: EnrolmentResult = await harness.coordinator.enrolments.enrol(request, None)
    return DeviceIdentity(device.device, device.population, device.generation)


async def play(harness: CoordinatorHarness, phones: list[DeviceIdentity]) -> list[AssignmentClaims]:
    """A round of a task that is over after it."""
    await harness.task(round="goal = 4\nmax_rounds = 1", optimizer='name = "fedavgm"')
    every = [await harness.assigned(phone) for phone in phones]
    for claims in every:
        await send(harness, claims)
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    return every


async def send(harness: CoordinatorHarness, claims: AssignmentClaims) -> Receipt | ProblemCode:
    try:
        return await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
    except ApiError as refused:
        return refused.code


async def delete(harness: CoordinatorHarness, name: str = "en") -> PopulationDeleted:
    order = DeletionOrder(confirm=name, reason="a test")
    return await harness.coordinator.populations.delete(PopulationName(name), order, audit=AUDIT)


async def refusal(harness: CoordinatorHarness, name: str = "en", confirm: str = "en") -> ApiError:
    order = DeletionOrder(confirm=confirm, reason="a test")
    with pytest.raises(ApiError) as refused:
        await harness.coordinator.populations.delete(PopulationName(name), order, audit=AUDIT)
    return refused.value


def model_of(owner: str) -> PersonalModelRecord:
    return PersonalModelRecord(
        population=POPULATION,
        owner=owner,
        tag=b"t",
        key_id="k",
        sealed=b"sealed",
        updated_at=CoordinatorHarness.now,
    )


def rows_left(harness: CoordinatorHarness) -> dict[str, int]:
    """How many rows each table has that is about devices, people, rounds or models."""
    assert isinstance(harness.store, MemoryStore)
    rows = harness.store.rows
    tables: dict[str, Mapping[Any, object]] = {
        "populations": rows.populations,
        "names": rows.population_names,
        "versions": rows.versions,
        "tasks": rows.tasks,
        "rounds": rows.rounds,
        "devices": rows.devices,
        "assignments": rows.assignments,
        "heads": rows.personal_models,
        "partials": rows.partials,
        "verdicts": rows.verdicts,
    }
    return {name: len(table) for name, table in tables.items() if table}


async def blobs_left(harness: CoordinatorHarness) -> list[str]:
    return [blob.key async for blob in harness.blobs.list_blobs() if blob.key != "identity"]


async def test_a_deleted_population_leaves_no_row_and_no_blob(harness: CoordinatorHarness) -> None:
    phones = [await enrolled(harness, ANN), *[await enrolled(harness) for _ in range(3)]]
    await play(harness, phones)
    for owner in ("o1", "o2"):
        await harness.store.personal_models.put(model_of(owner), None)
    before = rows_left(harness)

    done = await delete(harness)

    assert {"heads": 2, "devices": 4, "assignments": 4, "versions": 2}.items() <= before.items()
    assert done == PopulationDeleted(name="en", id="en", is_complete=True)
    assert rows_left(harness) == {}
    assert await blobs_left(harness) == []
    assert await listed_populations(harness.coordinator) == []
    assert await listed_tasks(harness.coordinator) == []
    await harness.coordinator.tick()


@pytest.mark.parametrize("state", ["active", "paused"])
async def test_a_population_is_not_deleted_while_a_task_is_not_over(
    harness: CoordinatorHarness, state: str
) -> None:
    await harness.task()
    await harness.task("u")
    await harness.coordinator.tasks.cancel("u", audit=AUDIT)
    if state == "paused":
        await harness.coordinator.tasks.pause("t", audit=AUDIT)
    before = rows_left(harness)

    refused = await refusal(harness)

    assert refused.code is ProblemCode.CONFLICT
    assert refused.detail == "These tasks of it are not over: t. Cancel them, and delete it then."
    assert rows_left(harness) == before
    await harness.coordinator.tasks.cancel("t", audit=AUDIT)
    assert (await delete(harness)).is_complete


async def test_a_population_is_not_deleted_while_a_round_is_ending(harness: CoordinatorHarness) -> None:
    await harness.task()
    await harness.store.tasks.set_status(TaskName("t"), TaskStatus.CANCELLED)

    refused = await refusal(harness)

    assert refused.code is ProblemCode.CONFLICT
    assert refused.detail == "These rounds of it are just ending: t-1. Try again in some seconds."


@pytest.mark.parametrize("confirm", ["de", "EN", "en~1"])
async def test_a_deletion_repeats_the_name_or_nothing_is_deleted(
    harness: CoordinatorHarness, confirm: str
) -> None:
    before = rows_left(harness)

    refused = await refusal(harness, confirm=confirm)

    assert refused.code is ProblemCode.CONFLICT
    assert "nothing was deleted" in refused.detail
    assert rows_left(harness) == before


async def test_a_population_that_is_not_there_cannot_be_deleted_twice(harness: CoordinatorHarness) -> None:
    await delete(harness)

    assert (await refusal(harness)).code is ProblemCode.POPULATION_UNKNOWN
    assert (await refusal(harness, "xx", "xx")).code is ProblemCode.POPULATION_UNKNOWN


async def test_a_phone_of_a_deleted_population_is_told_to_enrol_and_then_that_there_is_none(
    harness: CoordinatorHarness,
) -> None:
    phone = await enrolled(harness)
    (claims, *_) = await play(harness, [phone, *[await enrolled(harness) for _ in range(3)]])
    await delete(harness)

    with pytest.raises(ApiError) as void:
        harness.coordinator._deps.revocations.check(phone, harness.now)
    with pytest.raises(ApiError) as unknown:
        await enrolled(harness)

    assert void.value.code is ProblemCode.TOKEN_INVALID
    assert unknown.value.code is ProblemCode.POPULATION_UNKNOWN
    assert await send(harness, claims) is ProblemCode.TOKEN_INVALID


async def test_a_phone_enrols_in_the_next_population_of_a_name_even_within_a_pass(
    harness: CoordinatorHarness,
) -> None:
    first = await enrolled(harness)
    await delete(harness)
    with pytest.raises(ApiError):
        await enrolled(harness)
    await harness.create_population()

    second = await enrolled(harness)

    assert (first.population, second.population) == (POPULATION, EN_2)


async def test_a_crowd_that_enrols_asks_for_its_population_once_a_pass(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    resolve = harness.store.populations.resolve

    async def count(name: str) -> PopulationName | None:
        asked.append(name)
        return await resolve(name)

    monkeypatch.setattr(harness.store.populations, "resolve", count)
    for _ in range(3):
        await enrolled(harness)
    await harness.coordinator.tick()
    await enrolled(harness)

    assert asked == ["en", "en"]


async def test_a_quarantine_outlives_the_population_for_the_same_user_in_the_next_of_its_name(
    harness: CoordinatorHarness,
) -> None:
    phone, other = await enrolled(harness, ANN), await enrolled(harness, BOB)
    await harness.coordinator.quarantines.quarantine(phone.device, OUT, audit=AUDIT)
    await delete(harness)

    await harness.create_population()
    await harness.coordinator.tasks.create(task_spec(), audit=AUDIT)
    await harness.coordinator.tick()
    again, next_to_it = await enrolled(harness, ANN), await enrolled(harness, BOB)
    answer = await harness.check_in(again)

    assert (again.population, next_to_it.population) == (EN_2, EN_2)
    assert isinstance(answer, Refusal)
    assert answer.reason == "quarantined"
    assert not isinstance(await harness.check_in(next_to_it), Refusal)
    assert await harness.store.devices.get(other.device) is None


async def test_a_population_of_the_same_name_begins_anew_under_an_id_of_its_own(
    harness: CoordinatorHarness,
) -> None:
    claims = await play(harness, [await enrolled(harness) for _ in range(4)])
    await delete(harness)

    await harness.create_population(weights=constant(7.0))
    phones = [await enrolled(harness) for _ in range(4)]
    harness.pass_time(60.0)
    await play(harness, phones)

    (view,) = await listed_populations(harness.coordinator)
    assert (view.name, view.id, view.former_names, view.model_version, view.devices) == (
        *("en", "en~2", []),
        *(1, 4),
    )
    (task,) = await listed_tasks(harness.coordinator)
    assert (task.name, task.id, task.population) == ("t", "t~2", "en")
    assert task.spec["task"] == {"name": "t", "population": "en", "kind": "train", "traffic": 1.0}
    # A phone of the deleted population has no part in a round of the same name.
    assert await send(harness, claims[0]) is ProblemCode.TOKEN_INVALID
    (only,) = await listed_rounds(harness.coordinator, "t")
    assert (only.phase, only.counted) == ("closed", 4)


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
async def test_a_server_killed_in_a_deletion_has_the_population_whole_or_finishes(
    *, after_write: bool
) -> None:
    outcomes = set[str]()
    for writes in range(WRITES_OF_A_DELETION):
        harness = CoordinatorHarness()
        await harness.coordinator.start()
        await harness.create_population()
        await play(harness, [await enrolled(harness, ANN), *[await enrolled(harness) for _ in range(3)]])
        await harness.store.personal_models.put(model_of("o1"), None)
        before = rows_left(harness)

        crash_after(harness, writes, after_write=after_write)
        try:
            await delete(harness)
            outcomes.add("survived")
        except ProcessKilled:
            outcomes.add("killed")
        revive(harness)
        await harness.coordinator.start()
        for _ in range(8):
            await harness.coordinator.tick()

        if rows_left(harness) == before:
            outcomes.add("whole")
            assert len(await listed_populations(harness.coordinator)) == 1
            continue
        outcomes.add("gone")
        assert rows_left(harness) == {}, f"after {writes} writes"
        assert isinstance(harness.blobs, MemoryBlobStore)
        harness.pass_time(timedelta(hours=2).total_seconds())
        await harness.coordinator.tick()
        assert await blobs_left(harness) == [], f"after {writes} writes"

    assert outcomes >= {"killed", "survived", "gone", "whole"} - ({"whole"} if after_write else set())


async def test_what_a_reader_keeps_in_the_files_is_tried_again_until_it_is_gone(
    harness: CoordinatorHarness,
) -> None:
    await enrolled(harness)
    answers, scrub = [False, False], harness.store.personal_models.scrub

    async def blocked() -> bool:
        return answers.pop() if answers else await scrub()

    harness.store.personal_models.scrub = blocked  # type: ignore[method-assign]
    done = await delete(harness)
    before = rows_left(harness)
    for _ in range(3):
        await harness.coordinator.tick()
        harness.pass_time(5.0)

    assert not done.is_complete
    assert before == {"versions": 1}
    assert rows_left(harness) == {}
    with pytest.raises(ApiError) as refused:
        await enrolled(harness)
    assert refused.value.code is ProblemCode.POPULATION_UNKNOWN


async def test_what_is_too_much_for_one_call_is_deleted_by_the_passes(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(population_deletion, "_BATCH_SIZE", 1)
    monkeypatch.setattr(population_deletion, "_STEPS_IN_CALL", 3)
    for _ in range(5):
        await enrolled(harness)

    done = await delete(harness)
    left = rows_left(harness)
    for _ in range(4):
        await harness.coordinator.tick()

    assert not done.is_complete
    assert left == {"versions": 1, "devices": 2}
    assert rows_left(harness) == {}


async def test_another_process_finishes_within_a_minute_what_a_killed_one_began() -> None:
    harness = CoordinatorHarness()
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    await here.start()
    await harness.create_population()
    for _ in range(3):
        await enrolled(harness)
    await there.start()
    await there.tick()
    await harness.store.populations.mark_deleted(POPULATION, harness.now, audit=AUDIT)
    await here.stop()  # its lease to lead is free

    harness.coordinator = there
    for _ in range(4):
        harness.pass_time(21.0)
        await there.tick()

    assert rows_left(harness) == {}
    await there.stop()


async def test_another_replica_refuses_a_phone_of_a_deleted_population_within_the_bound(
    harness: CoordinatorHarness,
) -> None:
    there = harness.another_coordinator("b")
    await there.start()
    phone = await enrolled(harness)
    await delete(harness)
    harness.pass_time(2)

    await there.tick()

    with pytest.raises(ApiError) as refused:
        there._deps.revocations.check(phone, harness.now)
    assert refused.value.code is ProblemCode.TOKEN_INVALID
    await there.stop()


@pytest.mark.parametrize("leader", ["the deleting process", "the other one"])
async def test_another_replica_forgets_a_task_that_went_with_its_population_between_two_passes(
    leader: str,
) -> None:
    errors: list[str] = []
    harness = CoordinatorHarness()
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for replica in (here, there) if leader == "the deleting process" else (there, here):
        await replica.start()
    await harness.create_population()
    await harness.task(round="goal = 4")
    await here.tick()
    await there.tick()
    await here.tick()
    assert [state.task for state in there.registry] == ["t"]

    await here.tasks.cancel("t", audit=AUDIT)
    assert (await delete(harness)).is_complete
    there._deps.observer.task_stuck = (  # type: ignore[method-assign]
        lambda task, error: errors.append(f"{task}: {error}")
    )
    for _ in range(3):
        harness.pass_time(400.0)
        await there.tick()

    assert errors == []
    assert list(there.registry) == []
    for replica in (here, there):
        await replica.stop()
