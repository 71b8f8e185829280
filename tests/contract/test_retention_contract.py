"""One contract for every record store: expired rows are deleted, and needed ones stay."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, take_slot
from tests.contract.stores import STORES, new_store
from tests.contract.test_heads_contract import HEAD
from tests.contract.test_store_contract import (
    EN,
    NOW,
    POPULATION,
    ROUND,
    TASK,
    VERSION,
    assignment,
    device,
)
from tests.memory_store.blobs import MemoryBlobStore

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, RoundId
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.rounds.round import Cancelled, CloseRequested, Merged, PartialsDeleted, Stepped
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.device_facts import SeenDevice
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.pruning import PruneResult, prune
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.retention import PrunedRows, RetentionPolicy, UnprovenDevices, expired_rows

POLICY = RetentionPolicy(
    assignments_retention=timedelta(days=30),
    versions_retained=2,
    devices_retention=timedelta(days=400),
    unproven_retention=timedelta(days=60),
    orphans_retention=timedelta(days=1),
)


async def published(store: RecordStore, number: int) -> None:
    """One version more, by a round of its own."""
    version = replace(
        VERSION,
        version=ModelVersion(number),
        parent=ModelVersion(number - 1),
        download_key=f"download/{number}",
        checkpoint_key=f"checkpoint/{number}",
    )
    opening = replace(ROUND.round, id=RoundId(f"v-{number}"), sequence=10 + number)
    await store.rounds.add(replace(ROUND, round=opening))
    for event in (CloseRequested(), Merged(), Stepped()):
        await store.rounds.advance(opening.id, event, NOW, {})
    await store.rounds.publish(opening.id, version, "state", NOW)
    await store.rounds.advance(opening.id, PartialsDeleted(), NOW, {})


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """Five versions; a round that is over with one device in it, and one under way with another."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    for number in range(1, 5):
        await published(opened, number)
    for number, device_name in ((1, "a"), (2, "b")):
        record = replace(
            ROUND,
            round=replace(
                ROUND.round, id=RoundId(f"t-{number}"), sequence=number, base_version=ModelVersion(0)
            ),
        )
        await opened.rounds.add(record)
        await add_device(opened, device(device_name))
        await take_slot(opened, assignment(device_name, f"t-{number}"))
        if number == 1:
            await opened.rounds.advance(record.round.id, Cancelled("why"), NOW, {})
    await opened.personal_models.put(HEAD, None)
    yield opened
    await opened.close()


@pytest.fixture
async def blobs() -> MemoryBlobStore:
    """The versions' blobs, and one that no row points to."""
    all_blobs = MemoryBlobStore(clock=lambda: NOW)
    for number in range(1, 5):
        await all_blobs.put(f"download/{number}", b"12")
        await all_blobs.put(f"checkpoint/{number}", b"345")
    for key in ("download", "checkpoint", "state", "partials/lost"):
        await all_blobs.put(key, b"6")
    return all_blobs


async def keys(blobs: MemoryBlobStore) -> set[str]:
    return {blob.key async for blob in blobs.list_blobs()}


async def test_nothing_goes_before_its_time(store: RecordStore, blobs: MemoryBlobStore) -> None:
    policy = replace(POLICY, versions_retained=5)
    before = await keys(blobs)

    result = await prune(store, blobs, policy, NOW + timedelta(hours=1), is_dry_run=False)

    assert result.rows == PrunedRows(assignments=0, devices=0, heads=0, versions=0)
    assert await keys(blobs) == before
    assert len(await store.assignments.list_by_round(RoundId("t-1"))) == 1


async def test_after_a_month_assignments_old_versions_and_orphans_go(
    store: RecordStore, blobs: MemoryBlobStore
) -> None:
    at = NOW + timedelta(days=31)
    dry_run = await prune(store, blobs, POLICY, at, is_dry_run=True)
    untouched = await keys(blobs)

    result = await prune(store, blobs, POLICY, at, is_dry_run=False)

    assert dry_run == result
    assert len(untouched) == 12
    # Version 0 stays: the round under way began with it.
    assert result == PruneResult(
        rows=PrunedRows(assignments=1, devices=0, heads=0, versions=2), blobs=5, blob_bytes=11
    )
    assert [one.version for one in await store.populations.versions()] == [0, 3, 4]
    assert await store.assignments.list_by_round(RoundId("t-1")) == []
    assert len(await store.assignments.list_by_round(RoundId("t-2"))) == 1
    assert await keys(blobs) == {
        *("download", "checkpoint", "state"),
        *(f"{kind}/{number}" for kind in ("download", "checkpoint") for number in (3, 4)),
    }
    again = await prune(store, blobs, POLICY, at, is_dry_run=False)
    assert again.rows == PrunedRows(assignments=0, devices=0, heads=0, versions=0)
    assert again.blobs == 0


async def test_after_a_long_absence_devices_and_heads_go_but_not_a_device_in_a_round(
    store: RecordStore, blobs: MemoryBlobStore
) -> None:
    result = await prune(store, blobs, POLICY, NOW + timedelta(days=401), is_dry_run=False)

    assert (result.rows.devices, result.rows.heads) == (1, 1)
    assert await store.devices.get(DeviceId("a")) is None
    assert await store.devices.get(DeviceId("b")) is not None
    assert await store.personal_models.get(EN, HEAD.owner) is None


def test_the_newest_version_and_the_one_before_are_never_doomed() -> None:
    policy = replace(POLICY, versions_retained=0)
    versions = [replace(VERSION, version=ModelVersion(number)) for number in range(4)]
    newest = replace(POPULATION, latest_version=ModelVersion(3))

    going = expired_rows(policy, NOW, [newest], versions, [], [TASK], [])

    assert going.versions == ((EN, 0), (EN, 1))


@pytest.mark.parametrize("is_pinned", [False, True])
async def test_a_version_that_is_pinned_or_that_keyboards_may_be_served_stays(
    store: RecordStore, blobs: MemoryBlobStore, is_pinned: bool
) -> None:
    state = await store.releases.newest(EN)
    assert state is not None
    if is_pinned:
        await store.populations.set_pinned(EN, ModelVersion(2), NOW, audit=AUDIT)
        staged = replace(state, sequence=1, action=ReleaseAction.PROMOTED, version=ModelVersion(4))
    else:
        staged = replace(state, sequence=1, action=ReleaseAction.STAGED, candidate=ModelVersion(2), percent=1)
    await store.releases.append(staged, audit=AUDIT)

    await prune(store, blobs, POLICY, NOW + timedelta(days=31), is_dry_run=False)

    # Version 0 stays too: the round under way began with it.
    assert [one.version for one in await store.populations.versions()] == [0, 2, 3, 4]
    assert {"download/2", "checkpoint/2"} <= await keys(blobs)


async def test_a_version_that_is_released_or_pinned_meanwhile_stays(store: RecordStore) -> None:
    versions = await store.populations.versions()
    expired = expired_rows(POLICY, NOW, [await _population(store)], versions, [], [], [])
    assert [version for _, version in expired.versions] == [0, 1, 2]

    await store.populations.set_pinned(EN, ModelVersion(1), NOW, audit=AUDIT)
    gone = await store.retention.delete(expired)

    assert gone.versions == 1  # keyboards are served version 0
    assert [one.version for one in await store.populations.versions()] == [0, 1, 3, 4]


async def _population(store: RecordStore) -> PopulationRecord:
    found = await store.populations.get(EN)
    assert found is not None
    return found


async def test_who_took_part_in_a_live_task_that_limits_how_often_is_kept(
    store: RecordStore, blobs: MemoryBlobStore
) -> None:
    limited = parse_task(
        '[task]\nname = "l"\npopulation = "en"\n[round]\ngoal = 4\n[eligibility]\nmax_participations = 2\n'
    )
    await store.tasks.add(replace(TASK, spec=limited), audit=AUDIT)
    opening = replace(ROUND.round, id=RoundId("l-1"), task=limited.name, spec=limited)
    await store.rounds.add(replace(ROUND, round=opening))
    await take_slot(store, assignment("a", "l-1"))
    await store.rounds.advance(opening.id, Cancelled("why"), NOW, {})

    while_live = await prune(store, blobs, POLICY, NOW + timedelta(days=31), is_dry_run=False)
    await store.tasks.set_status(limited.name, TaskStatus.FINISHED)
    afterwards = await prune(store, blobs, POLICY, NOW + timedelta(days=31), is_dry_run=False)

    assert (while_live.rows.assignments, afterwards.rows.assignments) == (1, 1)
    assert await store.assignments.list_by_round(opening.id) == []


@pytest.mark.fault("D12")
async def test_devices_that_never_reported_and_do_not_come_back_go_in_days(
    store: RecordStore, blobs: MemoryBlobStore
) -> None:
    for name in ("reported", "with-a-head", "kept-out", "seen"):
        await add_device(store, device(name))
    await add_device(store, replace(device("reported-too"), last_contributed_at=NOW))
    await store.devices.set_has_head(DeviceId("with-a-head"))
    await store.devices.set_quarantine(DeviceId("kept-out"), None, b"{}", NOW + timedelta(days=90), NOW)
    await store.devices.record_seen(
        [SeenDevice(device=DeviceId("seen"), app_build=1, locale="en", at=NOW + timedelta(days=8))]
    )
    await store.devices.forget([DeviceId("reported")], [], lambda _row, _counts: (), NOW)
    at = NOW + timedelta(days=7, seconds=1)
    policy = replace(POLICY, unproven_retention=timedelta(days=7))

    dry_run = await prune(store, blobs, policy, at, is_dry_run=True)
    result = await prune(store, blobs, policy, at, is_dry_run=False)

    # "a" alone: "b" is in a round that is under way.
    assert dry_run.rows.devices == result.rows.devices == 1
    left = [one.id for one in await store.devices.page(EN, None, 10)]
    assert left == ["b", "kept-out", "reported-too", "seen", "with-a-head"]


@pytest.mark.fault("D12")
async def test_unproven_devices_go_in_batches_the_longest_unseen_first(store: RecordStore) -> None:
    for number in range(5):
        await add_device(store, device(f"ghost-{number}", seen_at=NOW - timedelta(hours=number)))
    unproven = UnprovenDevices(seen_before=NOW, now=NOW)

    first = await store.retention.delete_unproven(unproven, 3)
    left = [one.id for one in await store.devices.page(EN, None, 10)]
    second = await store.retention.delete_unproven(unproven, 3)

    assert (first, second) == (3, 1)
    assert left == ["a", "b", "ghost-0", "ghost-1"]


@pytest.mark.fault("D9")
async def test_what_was_rolled_back_to_stays_with_the_version_that_is_released(
    store: RecordStore, blobs: MemoryBlobStore
) -> None:
    copied = replace(
        VERSION,
        version=ModelVersion(5),
        parent=ModelVersion(1),
        created_at=NOW,
        download_key="download/5",
        checkpoint_key="checkpoint/5",
    )
    await store.populations.roll_back(copied, ModelVersion(4), "worse", audit=AUDIT)
    for key in copied.blob_keys:
        await blobs.put(key, b"7")

    await prune(store, blobs, POLICY, NOW + timedelta(days=31), is_dry_run=False)

    # Keyboards are served version 0.
    assert [one.version for one in await store.populations.versions()] == [0, 1, 4, 5]
    assert await keys(blobs) >= {"download/1", "checkpoint/1", "download/5", "checkpoint/5"}
