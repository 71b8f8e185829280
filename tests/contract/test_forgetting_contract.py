"""Forgetting a device, voiding its tokens, and what outlives it: one suite, every store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, take_slot
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import (
    ASYNC,
    NOW,
    POPULATION,
    ROUND,
    T1,
    TASK,
    VERSION,
    advanced,
    assigned,
    assignment,
    counted,
    device,
    forgotten,
    partial,
)

from keyflock_server.protocol.identifiers import DeviceId, RoundId, TaskName, UserDigest
from keyflock_server.rounds.round import CloseRequested, Phase
from keyflock_server.storage.errors import AssignmentsNotOpen, Superseded
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import (
    AssignmentState,
    DeviceRecord,
    RevocationRecord,
    RoundRecord,
    TombstoneRecord,
)

A, B, T = DeviceId("a"), DeviceId("b"), TaskName("t")
DAY = timedelta(days=1)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A store with a population, a task and a round."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.rounds.add(ROUND)
    yield opened
    await opened.close()


def revocation(
    of: str, generation: int = 0, until_days: float = 1.0, written_s: float = 0.0
) -> RevocationRecord:
    return RevocationRecord(
        device_digest=of * 64,
        generation=generation,
        effective_at=NOW,
        until=NOW + until_days * DAY,
        written_at=NOW + timedelta(seconds=written_s),
    )


def tombstone(of: str = "d", **held: object) -> TombstoneRecord:
    return replace(TombstoneRecord(digest=of * 64, until=NOW + DAY), **held)  # type: ignore[arg-type]  # its own fields


def leaving(
    *tombstones: TombstoneRecord,
) -> Callable[[DeviceRecord, Mapping[TaskName, int]], Sequence[TombstoneRecord]]:
    """A rule by which every device leaves these."""
    return lambda _row, _counts: tombstones


@pytest.mark.fault("D5")
async def test_a_forgotten_devices_slot_is_free_again(store: RecordStore) -> None:
    await assigned(store, "a", "b")

    deleted = await forgotten(store, "a")

    record = await store.rounds.get(T1)
    rows = {row.device: row.state for row in await store.assignments.list_by_round(T1)}
    assert deleted == 1
    assert record is not None
    assert (record.round.assigned, record.round.failed, record.round.slots_taken) == (2, 1, 1)
    assert rows == {A: AssignmentState.FAILED, B: AssignmentState.ASSIGNED}


async def test_a_devices_assignments_are_listed_newest_first_with_their_tasks(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    other = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    await store.rounds.add(RoundRecord(round=other))
    later = replace(assignment("a", "u-1"), assigned_at=NOW + DAY)
    await take_slot(store, later)

    newest, total = await store.assignments.list_by_device(A, 1)
    both, _ = await store.assignments.list_by_device(A, 10)
    nothing = await store.assignments.list_by_device(DeviceId("c"), 10)

    assert (newest, total) == ([(TaskName("u"), later)], 2)
    assert [task for task, _ in both] == [TaskName("u"), T]
    assert nothing == ([], 0)


@pytest.mark.fault("D5")
async def test_a_flush_counts_nothing_of_a_forgotten_device(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    await forgotten(store, "a")

    with pytest.raises(AssignmentsNotOpen) as refused:
        await count_reports(store, partial(2, 2.0), [counted("a"), counted("b")], NOW)
    after = await count_reports(store, partial(1, 1.0), [counted("b")], NOW)

    assert refused.value.missing == {"assignment-of-a"}
    assert after.round.counted == 1


@pytest.mark.fault("D5")
async def test_a_flush_and_a_forget_at_once_agree_on_who_was_first(store: RecordStore) -> None:
    names = ("a", "b", "c", "d")
    await assigned(store, *names)

    async def flush(name: str) -> bool:
        try:
            await count_reports(store, partial(1, 1.0, f"p-{name}", name), [counted(name)], NOW)
        except AssignmentsNotOpen:
            return False
        return True

    outcomes = await asyncio.gather(
        *(flush(name) for name in names), *(forgotten(store, name) for name in names)
    )

    record = await store.rounds.get(T1)
    rows = {row.device: row.state for row in await store.assignments.list_by_round(T1)}
    assert outcomes[4:] == [1, 1, 1, 1]
    assert record is not None
    assert record.round.counted == sum(outcomes[:4]) == len(await store.rounds.partials(T1))
    assert record.round.failed == 4 - sum(outcomes[:4])
    for name, was_counted in zip(names, outcomes, strict=False):
        expected = AssignmentState.COUNTED if was_counted else AssignmentState.FAILED
        assert rows[DeviceId(name)] is expected


@pytest.mark.fault("D5")
async def test_an_assignment_and_a_forget_at_once_leave_no_slot_taken(store: RecordStore) -> None:
    await add_device(store, device("a"))

    async def assign() -> None:
        try:
            await take_slot(store, assignment("a"))
        except Superseded:
            return

    await asyncio.gather(assign(), forgotten(store, "a"))

    record = await store.rounds.get(T1)
    assert record is not None
    assert record.round.slots_taken == 0


@pytest.mark.fault("D5")
async def test_a_device_that_is_not_enrolled_is_given_no_slot(store: RecordStore) -> None:
    with pytest.raises(Superseded):
        await take_slot(store, assignment("nobody"))

    assert await store.rounds.get(T1) == ROUND
    assert await store.assignments.list_by_round(T1) == []


@pytest.mark.fault("D5")
async def test_in_a_round_that_is_closing_an_assignment_is_given_back_and_the_round_stays(
    store: RecordStore,
) -> None:
    await assigned(store, "a", "b")
    await count_reports(store, partial(1, 1.0), [counted("b")], NOW)
    before = await advanced(store, CloseRequested())

    await forgotten(store, "a", "b")

    rows = {row.device: row.state for row in await store.assignments.list_by_round(T1)}
    assert await store.rounds.get(T1) == before
    assert before.round.phase is Phase.CLOSING
    assert rows == {A: AssignmentState.FAILED, B: AssignmentState.COUNTED}


@pytest.mark.fault("D5")
async def test_of_several_rounds_each_gives_the_device_back(store: RecordStore) -> None:
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    other = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
    await store.rounds.add(RoundRecord(round=other))
    await assigned(store, "a", "b")
    await take_slot(store, replace(assignment("a", "u-1"), id=assignment("x").id))

    deleted = await forgotten(store, "a", "b", "nobody")

    found = [await store.rounds.get(round_id) for round_id in (T1, other.id)]
    assert deleted == 2
    assert [one.round.failed for one in found if one is not None] == [2, 1]
    assert await store.assignments.count_outstanding(TaskName("u"), NOW - DAY, NOW) == 0


@pytest.mark.fault("D5")
async def test_a_forget_voids_the_tokens_and_leaves_what_must_hold_with_it(store: RecordStore) -> None:
    await assigned(store, "a", "b")
    await count_reports(store, partial(1, 1.0), [counted("a")], NOW)
    asked: list[tuple[DeviceRecord, Mapping[TaskName, int]]] = []

    def remains(row: DeviceRecord, counts: Mapping[TaskName, int]) -> Sequence[TombstoneRecord]:
        asked.append((row, counts))
        return [tombstone()]

    await store.devices.forget([A], [revocation("a")], remains, NOW)

    assert asked == [(replace(device("a"), last_contributed_at=NOW, changed_at=NOW), {T: 1})]
    assert await store.revocations.get("a" * 64) == revocation("a")
    assert await store.tombstones.among(["d" * 64, "e" * 64], NOW) == [tombstone()]
    assert await store.tombstones.among(["d" * 64], NOW + DAY) == []
    assert await store.tombstones.among([], NOW) == []


@pytest.mark.fault("D5")
async def test_what_outlives_two_devices_is_the_more_of_both(store: RecordStore) -> None:
    for name in ("a", "b"):
        await add_device(store, device(name))
    first = tombstone(until=NOW + DAY, quarantined_until=NOW + DAY, participations_json=b'{"t": 3, "v": 1}')
    second = tombstone(until=NOW + 2 * DAY, last_contributed_at=NOW, participations_json=b'{"t": 2, "u": 5}')

    await store.devices.forget([A], [], leaving(first), NOW)
    await store.devices.forget([B], [], leaving(second), NOW)

    assert await store.tombstones.among(["d" * 64], NOW) == [
        tombstone(
            until=NOW + 2 * DAY,
            quarantined_until=NOW + DAY,
            last_contributed_at=NOW,
            participations_json=b'{"t": 3, "u": 5, "v": 1}',
        )
    ]


@pytest.mark.fault("D5")
async def test_tombstones_that_are_added_are_merged_with_those_there(store: RecordStore) -> None:
    await store.tombstones.add([tombstone(), tombstone("e")])

    await store.tombstones.add([tombstone(quarantined_until=NOW + DAY)])

    found = await store.tombstones.among(["d" * 64, "e" * 64], NOW)
    assert found == [tombstone(quarantined_until=NOW + DAY), tombstone("e")]


@pytest.mark.fault("D5")
async def test_devices_of_one_user_that_are_forgotten_at_once_leave_one_tombstone(store: RecordStore) -> None:
    for name in ("a", "b"):
        await add_device(store, device(name))

    deleted = await asyncio.gather(
        *(store.devices.forget([one], [], leaving(tombstone(), tombstone("e")), NOW) for one in (A, B))
    )

    assert deleted == [1, 1]
    assert await store.tombstones.among(["d" * 64, "e" * 64], NOW) == [tombstone(), tombstone("e")]


@pytest.mark.fault("D6")
async def test_of_two_refreshes_at_once_one_changes_the_device(store: RecordStore) -> None:
    await add_device(store, device("a"))
    changes = [
        replace(
            device("a"), token_generation=1, locale=locale, user_digest=UserDigest("u"), subject_digest="s"
        )
        for locale in ("de", "fr")
    ]

    written = await asyncio.gather(
        *(store.devices.renew(device("a"), after, revocation("a")) for after in changes)
    )

    assert sorted(written) == [False, True]
    assert await store.devices.get(A) == changes[written.index(True)]
    assert await store.revocations.get("a" * 64) == revocation("a")
    assert await store.devices.list_by_subject("s") == [changes[written.index(True)]]


@pytest.mark.fault("D6")
async def test_a_device_that_is_gone_is_not_renewed_and_nothing_of_it_is_voided(store: RecordStore) -> None:
    after = replace(device("a"), token_generation=1)

    assert not await store.devices.renew(device("a"), after, revocation("a"))
    assert await store.revocations.get("a" * 64) is None


@pytest.mark.fault("D6")
async def test_a_refresh_keeps_what_others_wrote_meanwhile(store: RecordStore) -> None:
    await add_device(store, device("a"))
    await store.devices.set_quarantine(A, None, b"one", NOW, NOW)

    await store.devices.renew(device("a"), replace(device("a"), token_generation=1), None)

    assert await store.devices.get(A) == replace(
        device("a"), token_generation=1, standing_json=b"one", quarantined_until=NOW, changed_at=NOW
    )


@pytest.mark.fault("D6")
async def test_replicas_read_what_was_written_since_and_the_newest_of_each_device(store: RecordStore) -> None:
    await add_device(store, device("a"))
    for generation in range(3):
        before = replace(device("a"), token_generation=generation)
        after = replace(before, token_generation=generation + 1)
        await store.devices.renew(before, after, revocation("a", generation, written_s=generation))

    newest = revocation("a", 2, written_s=2)
    assert await store.revocations.since(None) == [newest]
    assert await store.revocations.since(NOW + timedelta(seconds=2)) == [newest]
    assert await store.revocations.since(NOW + timedelta(seconds=3)) == []


@pytest.mark.fault("D6")
async def test_what_says_nothing_any_more_goes_so_many_at_a_time(store: RecordStore) -> None:
    names = ("a", "b", "c")
    for number, name in enumerate(names):
        await add_device(store, device(name))
        left = tombstone(name, until=NOW + (number + 1) * DAY)
        await store.devices.forget(
            [DeviceId(name)], [revocation(name, until_days=number + 1)], leaving(left), NOW
        )
    at = NOW + 2 * DAY

    tables = (store.revocations, store.tombstones)
    assert [[await table.prune(at, 1) for _ in range(3)] for table in tables] == [[1, 1, 0]] * 2
    assert [one.device_digest[0] for one in await store.revocations.since(None)] == ["c"]
    assert [one.digest[0] for one in await store.tombstones.among([n * 64 for n in names], NOW)] == ["c"]
