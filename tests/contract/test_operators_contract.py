"""One contract for every record store: tokens, idempotency keys, causes, evaluations, versions and tasks."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contract.audits import AUDIT
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import EN, NOW, PERSONALIZE, POPULATION, ROUND, SPEC, TASK, VERSION

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId
from keyflock_server.protocol.roles import Role
from keyflock_server.rounds.round import CloseRequested, Merged, Summarised
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.storage.errors import AlreadyExists, PopulationGone, Superseded
from keyflock_server.storage.interfaces.audit import AuditFilter
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.operator_records import ApiTokenRecord, EvaluationRecord, IdempotencyRecord

LATER = NOW + timedelta(hours=1)
TOKEN = ApiTokenRecord(
    id="k1", name="ann", role=Role.OPERATOR, digest=b"s" * 32, created_at=NOW, created_by="root"
)
KEY = IdempotencyRecord(
    operator="ann", key="abc", call="create_task", request_digest=b"r" * 32, created_at=NOW
)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.rounds.add(ROUND)
    yield opened
    await opened.close()


async def test_tokens_are_found_by_id_listed_and_revoked_once(store: RecordStore) -> None:
    other = replace(TOKEN, id="k0", digest=b"t" * 32, created_at=LATER, expires_at=LATER)
    await store.api_tokens.add(TOKEN, audit=AUDIT)
    await store.api_tokens.add(other, audit=AUDIT)

    with pytest.raises(AlreadyExists):
        await store.api_tokens.add(replace(TOKEN, digest=b"u" * 32), audit=AUDIT)

    assert await store.api_tokens.get("k1") == TOKEN
    assert await store.api_tokens.get("k2") is None
    assert await store.api_tokens.all() == [TOKEN, other]
    revoked = replace(TOKEN, revoked_at=LATER)
    assert await store.api_tokens.revoke("k1", LATER, audit=AUDIT) == revoked
    again = LATER + timedelta(hours=1)
    assert await store.api_tokens.revoke("k1", again, audit=AUDIT) == revoked
    assert await store.api_tokens.revoke("k2", again, audit=AUDIT) is None
    assert len(await store.audit.page(AuditFilter(subject_kind="token"), None, 10)) == 3


async def test_of_creations_at_once_with_one_key_one_goes_on(store: RecordStore) -> None:
    claims = await asyncio.gather(*(store.idempotency.claim(KEY, NOW) for _ in range(4)))

    assert claims.count(None) == 1
    assert claims.count(KEY) == 3


async def test_a_repeated_creation_gets_the_stored_answer(store: RecordStore) -> None:
    assert await store.idempotency.claim(KEY, NOW) is None
    await store.idempotency.complete("ann", "abc", 201, b'{"name":"t"}')

    known = await store.idempotency.claim(replace(KEY, request_digest=b"x" * 32, created_at=LATER), LATER)

    assert known == replace(KEY, status=201, body=b'{"name":"t"}')
    assert known is not None
    assert known.is_complete
    assert await store.idempotency.claim(replace(KEY, operator="bob"), NOW) is None


async def test_a_key_is_free_again_after_a_refusal_or_a_killed_process(store: RecordStore) -> None:
    later = replace(KEY, created_at=LATER)
    assert await store.idempotency.claim(KEY, NOW) is None
    await store.idempotency.release("ann", "abc")
    assert await store.idempotency.claim(KEY, NOW) is None
    assert await store.idempotency.claim(later, NOW) == KEY  # it is under way
    assert await store.idempotency.claim(later, LATER) is None  # nobody will answer it any more

    await store.idempotency.complete("ann", "abc", 201, b"")
    await store.idempotency.release("ann", "abc")
    known = await store.idempotency.claim(KEY, NOW)
    assert known is not None
    assert known.status == 201


async def test_old_keys_are_pruned_some_at_a_time(store: RecordStore) -> None:
    for number in range(3):
        await store.idempotency.claim(replace(KEY, key=f"k{number}"), NOW)
    await store.idempotency.claim(replace(KEY, key="new", created_at=LATER), NOW)

    assert await store.idempotency.prune(LATER, 2) == 2
    assert await store.idempotency.prune(LATER, 2) == 1
    assert await store.idempotency.prune(LATER, 2) == 0
    assert await store.idempotency.claim(replace(KEY, key="new"), NOW) is not None


async def test_causes_of_failure_are_counted_by_round_apart_from_verdicts(store: RecordStore) -> None:
    mine = RoundId("t-1")
    await store.causes.add({mine: {"low_battery": 2}})
    await store.causes.add({mine: {"low_battery": 1, "cancelled": 1}})
    await store.verdicts.add({mine: {"clipped": 5}})

    assert await store.causes.list_by_task(SPEC.name) == {mine: {"cancelled": 1, "low_battery": 3}}
    assert await store.causes.list_by_task(SPEC.name, RoundId("t-2")) == {}
    assert await store.verdicts.list_by_task(SPEC.name) == {mine: {"clipped": 5}}


async def test_an_evaluation_is_stored_with_the_end_of_its_round_or_not_at_all(store: RecordStore) -> None:
    id_ = RoundId("p-1")
    await store.tasks.add(replace(TASK, spec=PERSONALIZE), audit=AUDIT)
    opening = replace(ROUND.round, id=id_, task=PERSONALIZE.name, spec=PERSONALIZE)
    await store.rounds.add(replace(ROUND, round=opening))
    evaluation = EvaluationRecord(
        round_id=id_,
        population=EN,
        task=PERSONALIZE.name,
        candidate=ModelVersion(3),
        baseline=ModelVersion(1),
        phones=400,
        sums_json='{"n":400}',
        at=LATER,
    )
    with pytest.raises(Superseded):
        await store.rounds.publish_evaluation(id_, Summarised("{}"), evaluation, LATER)
    assert await store.evaluations.get(id_) is None

    for event in (CloseRequested(), Merged()):
        await store.rounds.advance(id_, event, NOW, {})
    ended = await store.rounds.publish_evaluation(id_, Summarised("{}"), evaluation, LATER)

    assert ended.round.is_committed
    assert await store.evaluations.get(id_) == evaluation
    assert await store.evaluations.list_by_candidate(EN, ModelVersion(3)) == [evaluation]
    assert await store.evaluations.list_by_candidate(EN, ModelVersion(1)) == []
    assert await store.evaluations.list_by_task(PERSONALIZE.name, 5) == [evaluation]


async def test_a_pinned_version_stays_pinned_since_the_first_time(store: RecordStore) -> None:
    pinned = await store.populations.set_pinned(EN, ModelVersion(0), NOW, audit=AUDIT)
    again = await store.populations.set_pinned(EN, ModelVersion(0), LATER, audit=AUDIT)
    free = await store.populations.set_pinned(EN, ModelVersion(0), None, audit=AUDIT)

    assert pinned == again == replace(VERSION, pinned_at=NOW)
    assert free == VERSION
    assert await store.populations.set_pinned(EN, ModelVersion(9), NOW, audit=AUDIT) is None
    assert await store.populations.version_page(EN, None, 10) == [VERSION]
    assert await store.populations.version_page(EN, ModelVersion(0), 10) == []


async def test_a_changed_task_has_a_higher_revision_and_a_stale_change_is_refused(store: RecordStore) -> None:
    paused = await store.tasks.change(
        SPEC.name,
        {"status": TaskStatus.PAUSED, "pause_reason": "night", "resumes_at": LATER},
        audit=replace(AUDIT, revision="0"),
    )

    assert (paused.revision, paused.pause_reason, paused.resumes_at) == (1, "night", LATER)
    assert await store.tasks.get(SPEC.name) == paused
    with pytest.raises(Superseded):
        await store.tasks.change(SPEC.name, {"status": TaskStatus.ACTIVE}, audit=replace(AUDIT, revision="0"))
    assert await store.tasks.change(SPEC.name, {"pause_reason": "night"}, audit=AUDIT) == paused


async def test_of_a_task_that_is_over_only_its_place_in_the_lists_changes(store: RecordStore) -> None:
    over = await store.tasks.change(
        SPEC.name, {"status": TaskStatus.CANCELLED, "end_reason": "a test"}, audit=AUDIT
    )

    with pytest.raises(Superseded):
        await store.tasks.change(SPEC.name, {"status": TaskStatus.ACTIVE}, audit=AUDIT)
    archived = await store.tasks.change(SPEC.name, {"archived_at": LATER}, audit=AUDIT)

    assert archived == replace(over, archived_at=LATER, revision=2)
    assert await store.tasks.get(SPEC.name) == archived


async def test_a_changed_population_has_a_higher_revision_and_a_stale_change_is_refused(
    store: RecordStore,
) -> None:
    archived = await store.populations.change(EN, {"archived_at": LATER}, audit=replace(AUDIT, revision="0"))

    assert archived == replace(POPULATION, archived_at=LATER, revision=1)
    assert await store.populations.get(EN) == archived
    assert await store.populations.change(EN, {"archived_at": LATER}, audit=AUDIT) == archived
    with pytest.raises(Superseded):
        await store.populations.change(EN, {"archived_at": None}, audit=replace(AUDIT, revision="0"))
    with pytest.raises(PopulationGone):
        await store.populations.change(PopulationName("xx"), {"archived_at": LATER}, audit=AUDIT)
