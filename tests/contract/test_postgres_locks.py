"""Transactions that meet on PostgreSQL: the later one waits for the earlier one's rows, and then sees them.

Each test holds rows in a transaction of its own, begins a call of the store, waits until PostgreSQL says that
the call waits for a lock, and commits. Nothing depends on who is quicker: a call that did not lock what it
read would wait for the same rows when it writes them, and write what it made of rows that are gone.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.util import await_only
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device, count_reports, take_slot
from tests.contract.test_names_contract import until_one_waits
from tests.contract.test_store_contract import (
    ASYNC,
    EN,
    NOW,
    POPULATION,
    ROUND,
    T1,
    TASK,
    VERSION,
    assigned,
    assignment,
    counted,
    device,
    forgotten,
    partial,
    seen,
)

from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, RoundId, TaskName
from keyflock_server.rounds.round import Carried, Discarded, Phase
from keyflock_server.storage.errors import AssignmentsNotOpen, Superseded
from keyflock_server.storage.records import AssignmentState, RoundRecord, TombstoneRecord
from keyflock_server.storage.sql.engine import engine_for
from keyflock_server.storage.sql.round_rows import discard_unpublished
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.storage.tables import assignments, devices, populations, rounds

A, U2, U3 = DeviceId("a"), RoundId("u-2"), RoundId("u-3")
_WAITING: Final = text("SELECT count(*) FROM pg_locks WHERE NOT granted")


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[SqlStore]:
    """A store with a population, a task, an open round and the devices a and b."""
    opened = SqlStore(postgres_url)
    await opened.open()
    await opened.populations.add(POPULATION, VERSION, audit=AUDIT)
    await opened.tasks.add(TASK, audit=AUDIT)
    await opened.rounds.add(ROUND)
    for name in ("a", "b"):
        await add_device(opened, device(name))
    yield opened
    await opened.close()


@pytest.fixture
async def holder(postgres_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection of another process, with a transaction."""
    engine = engine_for(postgres_url)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def meet(holder: AsyncConnection, store: SqlStore, call: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the call returns
    """Begin a call that waits for what ``holder`` holds, commit, and return or raise what the call does."""
    task = asyncio.ensure_future(call)
    async with store._engine.connect() as watcher:
        while not task.done() and not (await watcher.execute(_WAITING)).scalar_one():
            await asyncio.sleep(0.005)
            await watcher.rollback()
    was_done = task.done()
    await holder.commit()
    result = await asyncio.gather(task, return_exceptions=True)
    assert not was_done, "The call did not wait."
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


async def second_buffer(store: SqlStore) -> None:
    """Give device a work in a buffer that is over, and open the next one: its row is another one's."""
    await store.tasks.add(replace(TASK, spec=ASYNC), audit=AUDIT)
    first = replace(ROUND.round, id=RoundId("u-1"), task=TaskName("u"), spec=ASYNC)
    await store.rounds.add(RoundRecord(round=first))
    await take_slot(store, assignment("a", "u-1"))
    async with store._engine.begin() as connection:
        await connection.execute(update(rounds).where(rounds.c.id == "u-1").values(phase=Phase.CLOSED))
    await store.rounds.add(RoundRecord(round=replace(first, id=U2, sequence=2)))


def mark(of: str, round_id: str, state: AssignmentState) -> Any:  # noqa: ANN401 - SQLAlchemy's update
    mine = (assignments.c.device == of) & (assignments.c.round_id == round_id)
    return update(assignments).where(mine).values(state=state)


async def state_of(store: SqlStore, name: str, round_id: str) -> str | None:
    row = await store.assignments.get(RoundId(round_id), DeviceId(name))
    return None if row is None else row.state


async def three_buffers(store: SqlStore) -> None:
    """Open the third buffer of a task. Device b was counted in the first and trains since the second; a does
    so since the first.
    """
    await second_buffer(store)
    async with store._engine.begin() as connection:
        await connection.execute(update(rounds).where(rounds.c.id == "u-1").values(phase=Phase.COLLECTING))
    await take_slot(store, assignment("b", "u-1"))
    await take_slot(store, assignment("b", "u-2"))
    async with store._engine.begin() as connection:
        await connection.execute(mark("b", "u-1", AssignmentState.COUNTED))
        ended = rounds.c.id.in_(["u-1", "u-2"])
        await connection.execute(update(rounds).where(ended).values(phase=Phase.CLOSED))
    second = await store.rounds.get(U2)
    assert second is not None
    third = replace(second.round, id=U3, sequence=3, phase=Phase.COLLECTING, assigned=0)
    await store.rounds.add(RoundRecord(round=third))


async def test_an_event_is_applied_to_the_row_that_another_event_has_left(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await holder.execute(update(rounds).where(rounds.c.id == T1).values(assigned=rounds.c.assigned + 1))

    after = await meet(holder, store, take_slot(store, assignment("a")))

    assert after.round.assigned == 2
    assert await store.rounds.get(T1) == after


async def test_an_event_does_not_happen_to_a_round_that_another_one_has_ended(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await assigned(store, "a")
    await holder.execute(update(rounds).where(rounds.c.id == T1).values(phase=Phase.CLOSING))

    with pytest.raises(Superseded):
        await meet(holder, store, count_reports(store, partial(1, 1.0), [counted("a")], NOW))

    assert await store.rounds.partials(T1) == []


async def test_a_buffer_counts_no_report_that_is_given_back_at_the_same_moment(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await second_buffer(store)
    await holder.execute(mark("a", "u-1", AssignmentState.FAILED))
    flush = count_reports(store, partial(1, 1.0, round_id=U2), [counted("a", round_id="u-1")], NOW)

    with pytest.raises(AssignmentsNotOpen):
        await meet(holder, store, flush)

    assert await state_of(store, "a", "u-1") == AssignmentState.FAILED


async def test_a_buffer_counts_no_report_of_a_device_that_goes_at_the_same_moment(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await second_buffer(store)
    await holder.execute(delete(devices).where(devices.c.id == A))
    flush = count_reports(store, partial(1, 1.0, round_id=U2), [counted("a", round_id="u-1")], NOW)

    with pytest.raises(AssignmentsNotOpen):
        await meet(holder, store, flush)

    buffer = await store.rounds.get(U2)
    assert buffer is not None
    assert buffer.round.counted == 0


async def test_a_device_that_goes_at_the_same_moment_is_given_no_slot(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await holder.execute(delete(devices).where(devices.c.id == A))

    with pytest.raises(Superseded):
        await meet(holder, store, take_slot(store, assignment("a")))

    assert await store.rounds.get(T1) == ROUND
    assert await state_of(store, "a", "t-1") is None


async def test_two_rounds_may_give_one_device_work_at_the_same_moment(
    store: SqlStore, holder: AsyncConnection
) -> None:
    """The device's row is locked against its end alone: neither waits for the other."""
    its_row = select(devices.c.id).where(devices.c.id == A).with_for_update(read=True, key_share=True)
    await holder.execute(its_row)

    after = await take_slot(store, assignment("a"))

    assert after.round.assigned == 1
    await holder.rollback()


async def test_reports_are_not_carried_past_a_version_that_is_published_at_the_same_moment(
    store: SqlStore, holder: AsyncConnection
) -> None:
    following = replace(ROUND, round=replace(ROUND.round, id=RoundId("t-2"), sequence=2))
    newer = update(populations).where(populations.c.name == EN).values(latest_version=ModelVersion(1))
    await holder.execute(newer)

    with pytest.raises(Superseded):
        await meet(holder, store, store.rounds.carry(T1, Carried("few came"), following))

    assert await store.rounds.get(T1) == ROUND
    assert await store.rounds.get(RoundId("t-2")) is None


async def test_what_is_counted_at_the_same_moment_does_not_expire(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await second_buffer(store)
    await holder.execute(mark("a", "u-1", AssignmentState.COUNTED))

    ended = await meet(holder, store, store.rounds.expire(U2, NOW + timedelta(seconds=600)))

    row = await store.devices.get(A)
    assert ended is None
    assert row is not None
    assert row.silences == 0
    assert await state_of(store, "a", "u-1") == AssignmentState.COUNTED


async def test_a_device_is_given_back_to_its_round_as_another_event_has_left_it(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await assigned(store, "a", "b")
    await holder.execute(update(rounds).where(rounds.c.id == T1).values(failed=rounds.c.failed + 1))

    await meet(holder, store, forgotten(store, "a"))

    found = await store.rounds.get(T1)
    assert found is not None
    assert (found.round.assigned, found.round.failed) == (2, 2)


async def test_a_device_that_is_counted_at_the_same_moment_is_not_given_back_when_it_goes(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await assigned(store, "a", "b")
    await holder.execute(mark("a", "t-1", AssignmentState.COUNTED))

    await meet(holder, store, forgotten(store, "a"))

    found = await store.rounds.get(T1)
    assert found is not None
    assert found.round.failed == 0
    assert await state_of(store, "a", "t-1") == AssignmentState.COUNTED


async def test_a_device_that_is_given_work_at_the_same_moment_goes_and_leaves_its_slot(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await holder.execute(update(rounds).where(rounds.c.id == T1).values(assigned=1))
    its_row = select(devices.c.id).where(devices.c.id == A).with_for_update(read=True, key_share=True)
    await holder.execute(its_row)
    row = assignment("a")
    columns = {name: getattr(row, name) for name in ("round_id", "device", "id", "state", "assigned_at")}
    await holder.execute(insert(assignments).values(columns | {"weight": 0.0, "session_shape": ""}))

    await meet(holder, store, forgotten(store, "a"))

    found = await store.rounds.get(T1)
    assert found is not None
    assert (found.round.assigned, found.round.failed, found.round.slots_taken) == (1, 1, 0)
    assert await state_of(store, "a", "t-1") == AssignmentState.FAILED


async def test_a_round_that_moves_on_at_the_same_moment_is_discarded_as_it_is_then(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await holder.execute(update(rounds).where(rounds.c.id == T1).values(assigned=3, failed=1))

    async def discard() -> tuple[RoundRecord, ...]:
        async with store._engine.begin() as connection:
            return await connection.run_sync(
                discard_unpublished, EN, lambda current: Discarded(f"{current.assigned} of it"), NOW
            )

    (discarded,) = await meet(holder, store, discard())

    assert (discarded.round.phase, discarded.round.detail) == (Phase.DISCARDED, "3 of it")
    assert discarded.round.failed == 1
    assert await store.rounds.get(T1) == discarded


async def test_devices_that_were_seen_wait_for_no_transaction_that_holds_one_of_them(
    store: SqlStore, holder: AsyncConnection
) -> None:
    at = NOW + timedelta(hours=1)
    await holder.execute(update(devices).where(devices.c.id == A).values(silences=1))

    await store.devices.record_seen([seen("b", at=at), seen("a", at=at)])
    await holder.commit()

    rows = [await store.devices.get(DeviceId(name)) for name in ("a", "b")]
    assert [row.last_seen_at for row in rows if row is not None] == [NOW, at]


async def test_a_device_is_forgotten_while_a_flush_waits_for_its_rows(store: SqlStore) -> None:
    """Both lock what was counted in an earlier buffer, beside what the device still has to report."""
    await three_buffers(store)
    holds_devices, may_end = asyncio.Event(), asyncio.Event()

    def pause(_device: object, _counts: object) -> list[TombstoneRecord]:
        holds_devices.set()
        await_only(may_end.wait())
        return []

    forgetting = asyncio.create_task(store.devices.forget([DeviceId("b")], [], pause, NOW))
    await holds_devices.wait()
    reports = [counted("a", round_id="u-1"), counted("b", round_id="u-2")]
    flush = asyncio.create_task(count_reports(store, partial(2, 2.0, round_id=U3), reports, NOW))
    await until_one_waits(store._engine)
    may_end.set()
    results = await asyncio.gather(forgetting, flush, return_exceptions=True)

    assert results[0] == 1
    assert isinstance(results[1], AssignmentsNotOpen)
    assert await state_of(store, "a", "u-1") == AssignmentState.ASSIGNED


async def test_the_rows_of_a_closed_buffer_are_cleared_up_while_a_later_one_counts_its_report(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await second_buffer(store)
    await holder.execute(mark("a", "u-1", AssignmentState.COUNTED))
    await holder.execute(update(devices).where(devices.c.id == A).values(last_contributed_at=NOW))

    await store.rounds.clear_up(RoundId("u-1"))
    await holder.commit()

    assert await state_of(store, "a", "u-1") == AssignmentState.COUNTED


async def test_a_report_that_is_being_counted_is_cleared_up_only_with_its_device(
    store: SqlStore, holder: AsyncConnection
) -> None:
    await second_buffer(store)
    await holder.execute(mark("a", "u-1", AssignmentState.ASSIGNED))
    async with store._engine.begin() as connection:
        await connection.execute(delete(devices).where(devices.c.id == A))

    await meet(holder, store, store.rounds.clear_up(RoundId("u-1")))

    assert await state_of(store, "a", "u-1") is None
