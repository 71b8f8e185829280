"""One contract for every record store: what evaluate rounds count, and what they leave as it is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, take_slot
from tests.contract.stores import STORES, new_store
from tests.contract.test_store_contract import (
    EN,
    NOW,
    POPULATION,
    ROUND,
    TASK,
    VERSION,
    assignment,
    counted,
    device,
    partial,
)

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.rounds.round import (
    Abandoned,
    CloseRequested,
    Merged,
    PartialsDeleted,
    Summarised,
)
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.errors import AlreadyExists, SlotRefused
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import RoundRecord
from keyflock_server.storage.retention import RetentionPolicy, expired_rows

CANDIDATE, BASELINE = ModelVersion(3), ModelVersion(1)
EVALUATE = parse_task(
    '[task]\nname = "e"\npopulation = "en"\nkind = "evaluate"\n[round]\ngoal = 4\n'
    "[evaluating]\ncandidate = 3\nbaseline = 1\n"
)
A = DeviceId("a")


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    """A store with a training round, and the task of kind ``evaluate`` without a round."""
    opened = new_store(request, tmp_path)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.rounds.add(ROUND)
    await opened.tasks.add(replace(TASK, spec=EVALUATE), audit=AUDIT)
    for name in ("a", "b"):
        await add_device(opened, device(name))
    yield opened
    await opened.close()


async def open_round(store: RecordStore, sequence: int) -> RoundId:
    """Open a round of the evaluate task, with device a's report counted in it."""
    id_ = RoundId(f"e-{sequence}")
    opening = replace(ROUND.round, id=id_, task=TaskName("e"), sequence=sequence, spec=EVALUATE)
    await store.rounds.add(replace(ROUND, round=replace(opening, base_version=CANDIDATE)))
    await take_slot(store, assignment("a", id_))
    await count_reports(store, partial(1, 1.0, round_id=id_), [counted("a", round_id=id_)], NOW)
    return id_


async def close_round(store: RecordStore, id_: RoundId, minutes: int = 0) -> EvaluationRecord:
    at = NOW + timedelta(minutes=minutes)
    for event in (CloseRequested(), Merged()):
        await store.rounds.advance(id_, event, at, {})
    evaluation = EvaluationRecord(
        round_id=id_,
        population=EN,
        task=TaskName("e"),
        candidate=CANDIDATE,
        baseline=BASELINE,
        phones=1,
        sums_json="{}",
        at=at,
    )
    await store.rounds.publish_evaluation(id_, Summarised("{}"), evaluation, at)
    await store.rounds.advance(id_, PartialsDeleted(), at, {})
    return evaluation


async def test_a_device_is_in_an_evaluation_once_its_round_has_closed(store: RecordStore) -> None:
    round_id = await open_round(store, 1)
    pair = EN, CANDIDATE, BASELINE
    while_open = await store.evaluations.has_counted(*pair, A)
    await close_round(store, round_id)

    assert not while_open
    assert await store.evaluations.has_counted(*pair, A)
    assert not await store.evaluations.has_counted(*pair, DeviceId("b"))
    assert not await store.evaluations.has_counted(EN, CANDIDATE, ModelVersion(2), A)
    assert not await store.evaluations.has_counted(EN, BASELINE, CANDIDATE, A)
    assert not await store.evaluations.has_counted(PopulationName("de"), CANDIDATE, BASELINE, A)


async def test_a_device_whose_round_was_abandoned_is_in_no_evaluation(store: RecordStore) -> None:
    round_id = await open_round(store, 1)

    await store.rounds.advance(round_id, Abandoned("too few", 1), NOW, {})

    assert not await store.evaluations.has_counted(EN, CANDIDATE, BASELINE, A)


async def test_the_evaluations_since_an_instant_come_oldest_first(store: RecordStore) -> None:
    made = [await close_round(store, await open_round(store, one), minutes=one) for one in (1, 2, 3)]

    assert await store.evaluations.list_since(EN, NOW, 10) == made
    assert await store.evaluations.list_since(EN, NOW + timedelta(minutes=1), 10) == made[1:]
    assert await store.evaluations.list_since(EN, NOW, 2) == made[1:]
    assert await store.evaluations.list_since(PopulationName("de"), NOW, 10) == []


async def test_an_evaluation_is_no_contribution_of_its_device(store: RecordStore) -> None:
    await take_slot(store, assignment("b"))
    expired = await store.rounds.expire(RoundId("t-1"), NOW + timedelta(seconds=600))
    before = await store.devices.get(DeviceId("b"))
    assert expired is not None
    assert before is not None
    assert before.silences == 1

    id_ = await open_round(store, 1)
    await take_slot(store, assignment("b", id_))
    report = counted("b", round_id=id_)
    await count_reports(store, partial(2, 2.0, "next", round_id=id_), [report], NOW, replaces="partial")

    assert await store.devices.get(DeviceId("b")) == before


async def test_silence_in_an_evaluation_is_no_silence(store: RecordStore) -> None:
    id_ = await open_round(store, 1)
    await take_slot(store, assignment("b", id_))

    expired = await store.rounds.expire(id_, NOW + timedelta(seconds=600))

    assert expired is not None
    assert expired[0].round.expired == 1
    found = await store.devices.get(DeviceId("b"))
    assert found is not None
    assert found.silences == 0


async def test_the_slots_transaction_leaves_out_who_has_trained_since(store: RecordStore) -> None:
    await take_slot(store, assignment("a"))
    await count_reports(store, partial(1, 1.0), [counted("a")], NOW + timedelta(seconds=5))
    rules = msgspec.structs.replace(EVALUATE.eligibility, not_trained_since=NOW)
    spec = msgspec.structs.replace(EVALUATE, eligibility=rules)
    opening = replace(ROUND.round, id=RoundId("e-1"), task=TaskName("e"), spec=spec)
    await store.rounds.add(replace(ROUND, round=opening))

    with pytest.raises(SlotRefused):
        await take_slot(store, assignment("a", "e-1"))
    await take_slot(store, assignment("b", "e-1"))

    found = await store.rounds.get(RoundId("e-1"))
    assert found is not None
    assert found.round.spec == spec


async def test_what_is_compared_and_who_was_counted_stay_while_the_task_lives(store: RecordStore) -> None:
    task = await store.tasks.get(TaskName("e"))
    assert task is not None
    versions = [replace(VERSION, version=ModelVersion(number)) for number in range(6)]
    newest = replace(POPULATION, latest_version=ModelVersion(5))
    policy = RetentionPolicy(versions_retained=2)

    with_task = expired_rows(policy, NOW, [newest], versions, [], [task], [])
    without_tasks = expired_rows(policy, NOW, [newest], versions, [], [], [])

    assert with_task.excluded_tasks == ("e",)
    assert [version for _, version in with_task.versions] == [0, 2]
    assert without_tasks.excluded_tasks == ()
    assert [version for _, version in without_tasks.versions] == [0, 1, 2, 3]


async def test_of_two_rounds_that_compare_the_same_versions_one_opens_at_a_time(store: RecordStore) -> None:
    other = msgspec.structs.replace(EVALUATE, task=msgspec.structs.replace(EVALUATE.task, name=TaskName("f")))
    await store.tasks.add(replace(TASK, spec=other), audit=AUDIT)

    def opening(spec: TaskSpec) -> RoundRecord:
        current = replace(
            ROUND.round, id=RoundId(f"{spec.name}-1"), task=spec.name, base_version=CANDIDATE, spec=spec
        )
        return replace(ROUND, round=current)

    ends = await asyncio.gather(
        *(store.rounds.add(opening(spec)) for spec in (EVALUATE, other)), return_exceptions=True
    )

    assert [type(end) for end in ends if end is not None] == [AlreadyExists]
    (first,) = [one for one in await store.rounds.unfinished() if one.round.id != ROUND.round.id]
    await store.rounds.advance(first.round.id, Abandoned("too few", 0), NOW, {})
    late = other if first.round.task == EVALUATE.name else EVALUATE
    await store.rounds.add(opening(late))
    assert late.name in {one.round.task for one in await store.rounds.unfinished()}
