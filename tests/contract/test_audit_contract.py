"""One contract for every record store: an operator's change has one entry, in its transaction."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.contract.audits import AUDIT, doing, verified
from tests.contract.operations import add_device
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import (
    EN,
    NOW,
    POPULATION,
    ROUND,
    SPEC,
    TASK,
    VERSION,
    device,
)

from keyflock_server.audit.differences import field_changes
from keyflock_server.audit.entry import AuditEntry, AuditHead
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId
from keyflock_server.protocol.roles import Role
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.releases.release_state import ReleaseAction
from keyflock_server.rounds.quarantine import Quarantine, quarantined_by_operator
from keyflock_server.rounds.round import CloseRequested, Discarded, Held, Merged, Stepped
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage import audit_documents
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, PopulationInUse, Superseded
from keyflock_server.storage.interfaces.audit import AuditFilter
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.operator_records import ApiTokenRecord, ReleaseRecord
from keyflock_server.storage.records import RevocationRecord, TaskRecord

ANY = AuditFilter()
#: Entries of what the fixture creates: a population with its release, and a task.
SET_UP = 3
TOKEN = ApiTokenRecord(
    id="k1", name="ann", role=Role.VIEWER, digest=b"s" * 32, created_at=NOW, created_by="root"
)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A population with a task, one held round and one device."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.rounds.add(ROUND)
    for event in (CloseRequested(), Merged(), Stepped(), Held("the step is long")):
        await opened.rounds.advance(RoundId("t-1"), event, NOW, {})
    await add_device(opened, device("a"))
    yield opened
    await opened.close()


async def entries(store: RecordStore) -> list[AuditEntry]:
    """All entries since the fixture, oldest first."""
    return await store.audit.ascending(SET_UP, 100)


def rolled_back() -> VersionRecord:
    return replace(VERSION, version=ModelVersion(1), parent=ModelVersion(0), note="Rolled back to 0")


async def _quarantine(store: RecordStore, audit_action: str) -> bool:
    standing = quarantined_by_operator(Quarantine(), "odd reports", NOW, 86_400.0)
    until = NOW + timedelta(days=1)
    audit = doing(audit_action).about("digest-of-a")
    return await store.devices.set_quarantine(
        DeviceId("a"), None, standing.to_json(), until, NOW, audit=audit
    )


async def _revoke(store: RecordStore) -> bool:
    row = await store.devices.get(DeviceId("a"))
    assert row is not None
    revocation = RevocationRecord(
        device_digest="digest-of-a", generation=0, effective_at=NOW, until=NOW, written_at=NOW
    )
    after = replace(row, token_generation=1)
    return await store.devices.renew(row, after, revocation, audit=AUDIT.about("digest-of-a"))


#: Each audited change: its subject, and the fields that it changes.
CHANGES: dict[
    str, tuple[Callable[[RecordStore], Awaitable[object]], tuple[str, str, str | None], set[str]]
] = {
    "a renamed population": (
        lambda store: store.populations.rename(EN, PopulationName("english"), audit=AUDIT),
        ("population", "en", "en"),
        {"current_name", "names", "revision"},
    ),
    "an archived population": (
        lambda store: store.populations.change(EN, {"archived_at": NOW}, audit=AUDIT),
        ("population", "en", "en"),
        {"archived_at", "revision"},
    ),
    "a release policy": (
        lambda store: store.populations.change(EN, {"release_policy_json": '{"by":"gate"}'}, audit=AUDIT),
        ("population", "en", "en"),
        {"release_policy", "revision"},
    ),
    "a paused task": (
        lambda store: store.tasks.change(
            SPEC.name, {"status": TaskStatus.PAUSED, "pause_reason": "night"}, audit=AUDIT
        ),
        ("task", "t", "en"),
        {"status", "pause_reason", "revision"},
    ),
    "a status": (
        lambda store: store.tasks.set_status(SPEC.name, TaskStatus.PAUSED, audit=AUDIT),
        ("task", "t", "en"),
        {"status", "revision"},
    ),
    "another goal": (
        lambda store: store.tasks.change(
            SPEC.name,
            {"spec": _with_goal(40)},
            audit=AUDIT,
        ),
        ("task", "t", "en"),
        {"spec.round.goal", "revision"},
    ),
    "a discarded round": (
        lambda store: store.rounds.advance(RoundId("t-1"), Discarded("odd"), NOW, {}, audit=AUDIT),
        ("round", "t-1", "en"),
        {"phase", "closed_at", "detail"},
    ),
    "a quarantined device": (
        lambda store: _quarantine(store, "device.quarantine"),
        ("device", "digest-of-a", "en"),
        {"quarantine", "quarantined_until"},
    ),
    "a device's void tokens": (_revoke, ("device", "digest-of-a", "en"), {"token_generation"}),
    "a pinned version": (
        lambda store: store.populations.set_pinned(EN, ModelVersion(0), NOW, audit=AUDIT),
        ("version", "en/0", "en"),
        {"pinned_at"},
    ),
}


def _with_goal(goal: int) -> TaskSpec:
    return msgspec.structs.replace(SPEC, round=msgspec.structs.replace(SPEC.round, goal=goal))


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_has_one_entry_with_its_subject_before_and_after(
    store: RecordStore, name: str
) -> None:
    change, subject, changed = CHANGES[name]

    await change(store)

    (entry,) = await entries(store)
    assert (entry.sequence, entry.operator, entry.role, entry.reason) == (
        SET_UP + 1,
        "ann",
        "operator",
        "a test",
    )
    assert (entry.subject_kind, entry.subject, entry.population) == subject
    assert {one.path for one in field_changes(entry.before_json, entry.after_json)} == changed
    assert await verified(store) is None


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_changes_nothing_has_no_entry(store: RecordStore, name: str) -> None:
    change, _, _ = CHANGES[name]
    await change(store)

    with suppress(Superseded):
        await change(store)

    assert len(await entries(store)) == 1


async def test_a_population_is_created_rolled_back_and_deleted_on_the_record(store: RecordStore) -> None:
    fr = PopulationName("fr")
    french = replace(POPULATION, name=fr), replace(VERSION, population=fr)
    await store.populations.add(*french, audit=doing("population.create"))
    back = replace(rolled_back(), population=fr)
    await store.populations.roll_back(back, ModelVersion(0), "worse", audit=doing("population.roll_back"))
    await store.populations.mark_deleted(fr, NOW, audit=doing("population.delete"))

    found = [(one.action, one.subject_kind, one.subject) for one in await entries(store)]

    assert found == [
        ("population.create", "release", "fr"),
        ("population.create", "population", "fr"),
        ("population.roll_back", "population", "fr"),
        ("population.delete", "population", "fr"),
    ]
    created, deleted = (await entries(store))[1], (await entries(store))[3]
    assert created.before_json is None
    assert deleted.after_json is None
    assert json.loads(deleted.before_json or "")["latest_version"] == 1
    assert await verified(store) is None


async def test_a_forgotten_device_leaves_an_entry_that_does_not_tell_which_it_was(store: RecordStore) -> None:
    forgotten = await store.devices.forget(
        [DeviceId("a")], [], lambda _device, _counts: [], NOW, audit=AUDIT.about("digest-of-a")
    )

    (entry,) = await entries(store)
    assert forgotten == 1
    assert (entry.subject, entry.after_json) == ("digest-of-a", None)
    assert json.loads(entry.before_json or "") == {
        "population": "en",
        "quarantine": None,
        "quarantined_until": None,
        "token_generation": 0,
        "violations": 0,
    }


async def test_a_token_is_in_the_log_without_its_digest(store: RecordStore) -> None:
    await store.api_tokens.add(TOKEN, audit=AUDIT)
    await store.api_tokens.revoke("k1", NOW, audit=AUDIT)

    added, revoked = await entries(store)
    assert (added.subject_kind, added.subject, added.population) == ("token", "k1", None)
    assert "digest" not in json.loads(added.after_json or "")
    changed = field_changes(revoked.before_json, revoked.after_json)
    assert [one.path for one in changed] == ["revoked_at"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda store: store.populations.add(POPULATION, VERSION, audit=AUDIT), AlreadyExists),
        (lambda store: store.populations.mark_deleted(EN, NOW, audit=AUDIT), PopulationInUse),
        (lambda store: store.populations.rename(PopulationName("xx"), EN, audit=AUDIT), PopulationGone),
        (
            lambda store: store.populations.roll_back(rolled_back(), ModelVersion(7), "worse", audit=AUDIT),
            Superseded,
        ),
        (
            lambda store: store.populations.change(
                EN, {"archived_at": NOW}, audit=replace(AUDIT, revision="9")
            ),
            Superseded,
        ),
        (lambda store: store.tasks.add(TASK, audit=AUDIT), AlreadyExists),
        (
            lambda store: store.tasks.change(
                SPEC.name, {"pause_reason": "x"}, audit=replace(AUDIT, revision="9")
            ),
            Superseded,
        ),
        (lambda store: store.rounds.advance(RoundId("t-1"), Merged(), NOW, {}, audit=AUDIT), Superseded),
        (
            lambda store: store.releases.append(
                ReleaseRecord(
                    population=EN,
                    sequence=7,
                    at=NOW,
                    action=ReleaseAction.PROMOTED,
                    version=ModelVersion(0),
                    operator="ann",
                    reason="x",
                ),
                audit=AUDIT,
            ),
            Superseded,
        ),
    ],
    ids=[
        *("a name that is taken", "a population in use", "an unknown population", "a rollback too late"),
        *("a stale population", "an id that is taken", "a stale task", "an illegal event", "a stale release"),
    ],
)
async def test_a_change_that_fails_has_no_entry(
    store: RecordStore, change: Callable[[RecordStore], Awaitable[object]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await change(store)

    assert await entries(store) == []
    assert (await store.audit.head()).sequence == SET_UP


async def test_what_the_server_does_by_itself_has_no_entry(store: RecordStore) -> None:
    await store.tasks.set_status(SPEC.name, TaskStatus.FINISHED)
    await store.rounds.advance(RoundId("t-1"), Discarded("odd"), NOW, {})

    assert await entries(store) == []


async def test_changes_at_once_have_entries_that_follow_one_another(store: RecordStore) -> None:
    tokens = [replace(TOKEN, id=f"k{number}", digest=bytes([number]) * 32) for number in range(8)]

    await asyncio.gather(*(store.api_tokens.add(token, audit=AUDIT) for token in tokens))

    found = await entries(store)
    assert [one.sequence for one in found] == list(range(SET_UP + 1, SET_UP + 9))
    assert {one.subject for one in found} == {token.id for token in tokens}
    assert await store.audit.head() == AuditHead(SET_UP + 8, found[-1].digest)
    assert await verified(store) is None


async def test_entries_are_found_by_who_what_where_and_when_newest_first(store: RecordStore) -> None:
    later = NOW + timedelta(hours=1)
    eve = replace(AUDIT, operator="eve", action="task.pause", at=later)
    await store.tasks.set_status(SPEC.name, TaskStatus.PAUSED, audit=eve)
    await store.api_tokens.add(TOKEN, audit=doing("token.create"))
    await store.populations.rename(EN, PopulationName("english"), audit=doing("population.rename"))

    async def found(wanted: AuditFilter, before: int = SET_UP + 4, limit: int = 10) -> list[int]:
        page = await store.audit.page(wanted, before, limit)
        return [one.sequence - SET_UP for one in page if one.sequence > SET_UP]

    assert await found(ANY) == [3, 2, 1]
    assert await found(ANY, limit=2) == [3, 2]
    assert await found(ANY, before=SET_UP + 2) == [1]
    assert await found(AuditFilter(operator="eve")) == [1]
    assert await found(AuditFilter(action="token.create")) == [2]
    assert await found(AuditFilter(subject_kind="population")) == [3]
    assert await found(AuditFilter(subject_kind="token", subject="k1")) == [2]
    assert await found(AuditFilter(population="en")) == [3, 1]
    assert await found(AuditFilter(since=later)) == [1]
    assert await found(AuditFilter(until=later)) == [3, 2]
    assert len(await store.audit.page(ANY, None, 10)) == SET_UP + 3
    assert await store.audit.get(SET_UP + 4) is None
    entry = await store.audit.get(SET_UP + 1)
    assert entry is not None
    assert (entry.operator, entry.at) == ("eve", later)


def test_no_document_has_a_key_a_secret_or_a_persons_digest() -> None:
    names = {name for names in audit_documents.LEFT_OUT.values() for name in names}
    for record, left_out in audit_documents.LEFT_OUT.items():
        included = {one.name for one in fields(record)} - left_out
        assert not [
            name for name in included if name.endswith("_key") or name in {"digest", "user_digest"}
        ], record
        assert left_out <= {one.name for one in fields(record)}, record
    assert "optimizer_state_key" in names
    assert "pause_reason" not in audit_documents.LEFT_OUT[TaskRecord]
