"""The pace of flushes: the first at once, the next an interval later, and nothing waits that must not."""

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import LAYOUT, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_full_round import cohort, send
from tests.unit.coordinator.test_report_committer import FlushRecorder

from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.coordinator import report_committer
from keyflock_server.coordinator.flush_pace import FlushPace, flush_interval_s
from keyflock_server.coordinator.task_state import OpenRound, TaskState
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Receipt, Report
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.errors import StorageError
from keyflock_server.storage.sql.store import SqlStore

T, FIRST = TaskName("t"), RoundId("t-1")

Answers = list["asyncio.Task[Receipt | ProblemCode]"]


@pytest.mark.parametrize(
    ("compute_s", "ack_wait_s", "interval_s"),
    [
        (0.0, 10.0, 0.05),
        (0.0025, 10.0, 0.1),
        (0.025, 10.0, 1.0),
        (0.5, 10.0, 1.0),
        (0.0025, 0.3, 0.03),
        (0.0025, 0.0, 0.0),
    ],
    ids=["the smallest model", "the published model", "a large one", "no longer than a tenth of the wait",
         "a short wait", "nothing waits"],
)  # fmt: skip
def test_the_interval_grows_with_a_flushs_cost_within_what_a_report_may_wait(
    compute_s: float, ack_wait_s: float, interval_s: float
) -> None:
    assert flush_interval_s(compute_s, ack_wait_s) == pytest.approx(interval_s, rel=1e-12)


def test_a_pace_rests_from_the_beginning_of_a_flush() -> None:
    pace = FlushPace()
    at_first = pace.rest_s(0.0)

    pace.flushed(100.0, 0.5)

    assert at_first <= 0.0
    assert (pace.rest_s(100.0), pace.rest_s(100.25), pace.rest_s(100.5)) == (0.5, 0.25, 0.0)


@pytest.fixture
async def paced(monkeypatch: pytest.MonkeyPatch) -> CoordinatorHarness:
    """Return a coordinator whose reports wait; after its first flush its interval does not end."""
    monkeypatch.setattr(report_committer, "flush_interval_s", lambda *_: math.inf)
    return await started(CoordinatorHarness(ack_wait_s=60.0, is_real_time=True, observer=FlushRecorder()))


async def started(harness: CoordinatorHarness) -> CoordinatorHarness:
    await harness.coordinator.start()
    await harness.create_population()
    return harness


def state_of(harness: CoordinatorHarness) -> TaskState:
    return harness.coordinator.registry._states[T]


def open_round(harness: CoordinatorHarness) -> OpenRound:
    opened = state_of(harness).open_round
    assert opened is not None
    return opened


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - no event is
        await asyncio.sleep(0)


async def sending(harness: CoordinatorHarness, claims: list[AssignmentClaims], value: float) -> Answers:
    """Send the reports, and return the requests once all of them are summed or answered."""
    batch = open_round(harness).batch
    before = batch.sum.size.reports
    answers = [asyncio.create_task(send(harness, one, value)) for one in claims]
    await until(lambda: batch.sum.size.reports == before + len(claims) or all(one.done() for one in answers))
    return answers


async def counted(harness: CoordinatorHarness) -> int:
    record = await harness.store.rounds.get(FIRST)
    assert record is not None
    return record.round.counted


def flush_sizes(harness: CoordinatorHarness) -> list[int]:
    assert isinstance(harness.observer, FlushRecorder)
    return [reports for _, reports, _ in harness.observer.committed]


def block_put(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], asyncio.Event]:
    """Have blobs wait to be written; return the keys of those that do, and what lets them go on."""
    put, keys, may_write = harness.blobs.put, list[str](), asyncio.Event()

    async def wait_and_put(key: str, data: bytes) -> None:
        keys.append(key)
        await may_write.wait()
        await put(key, data)

    monkeypatch.setattr(harness.blobs, "put", wait_and_put)
    return keys, may_write


async def test_the_first_reports_are_committed_at_once_and_the_next_gather(
    paced: CoordinatorHarness,
) -> None:
    await paced.task(round="goal = 16")
    claims = await cohort(paced, 10)

    first = await asyncio.gather(*await sending(paced, claims[:4], 1.0))
    later = await sending(paced, claims[4:], 1.0)
    await paced.coordinator.tick()  # a pass keeps the interval too
    gathered = open_round(paced).batch.sum.size.reports
    state_of(paced).flush_pace.next_at_s = 0.0
    await paced.coordinator.tick()

    assert all(isinstance(one, Receipt) for one in [*first, *await asyncio.gather(*later)])
    assert gathered == 6
    assert flush_sizes(paced) == [4, 6]
    assert isinstance(paced.observer, FlushRecorder)
    assert paced.observer.intervals_s == [math.inf, math.inf]
    await paced.coordinator.stop()


async def test_what_gathered_is_committed_when_the_interval_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = await started(CoordinatorHarness(ack_wait_s=60.0, is_real_time=True, observer=FlushRecorder()))
    monkeypatch.setattr(report_committer, "flush_interval_s", lambda *_: 0.001)
    await harness.task(round="goal = 24")
    claims = await cohort(harness, 12)

    answers = [
        await asyncio.gather(*(send(harness, one, 1.0) for one in claims[at : at + 4])) for at in (0, 4, 8)
    ]

    assert all(isinstance(one, Receipt) for group in answers for one in group)
    assert await counted(harness) == 12
    await harness.coordinator.stop()


async def test_the_last_reports_of_a_goal_do_not_wait_for_the_interval(paced: CoordinatorHarness) -> None:
    await paced.task(round="goal = 8")
    claims = await cohort(paced, 8)

    for group in (claims[:4], claims[4:]):
        answers = await asyncio.gather(*(send(paced, one, 1.0) for one in group))
        assert all(isinstance(one, Receipt) for one in answers)

    assert flush_sizes(paced) == [4, 4]
    await paced.coordinator.stop()


async def test_a_round_that_closes_commits_at_once_what_waits_for_the_interval(
    paced: CoordinatorHarness,
) -> None:
    await paced.task(round="goal = 16\nminimum = 8\ndeadline_s = 600.0")
    claims = await cohort(paced, 8)
    await asyncio.gather(*await sending(paced, claims[:4], 1.0))
    waiting = await sending(paced, claims[4:], 1.0)

    paced.pass_time(601.0)
    await paced.coordinator.tick()

    assert all(isinstance(one, Receipt) for one in await asyncio.gather(*waiting))
    (closed, *_) = await listed_rounds(paced.coordinator, T)
    assert (closed.phase, closed.counted) == ("closed", 8)
    np.testing.assert_array_equal(await paced.model(1), constant(-1.0))
    await paced.coordinator.stop()


async def test_a_process_that_stops_commits_what_waits_for_the_interval(paced: CoordinatorHarness) -> None:
    await paced.task(round="goal = 16")
    claims = await cohort(paced, 8)
    await asyncio.gather(*await sending(paced, claims[:4], 1.0))
    waiting = await sending(paced, claims[4:], 1.0)

    await paced.coordinator.stop()

    assert all(isinstance(one, Receipt) for one in await asyncio.gather(*waiting))
    assert await counted(paced) == 8


async def test_a_process_that_stops_commits_what_waits_while_another_tasks_round_closes(
    paced: CoordinatorHarness,
) -> None:
    await paced.task("closing")
    await paced.coordinator.tasks.pause(TaskName("closing"), audit=AUDIT)
    await paced.task(round="goal = 16")
    claims = await cohort(paced, 8)
    await asyncio.gather(*await sending(paced, claims[:4], 1.0))
    waiting = await sending(paced, claims[4:], 1.0)

    closing = paced.coordinator.registry._states[TaskName("closing")]
    async with closing.flush_lock:  # as while it closes
        paced.coordinator._flushes._begin(closing)  # as for a report that arrives meanwhile
        stopping = asyncio.create_task(paced.coordinator.stop())
        async with asyncio.timeout(60.0):
            answers = await asyncio.gather(*waiting)
    await stopping

    assert all(isinstance(one, Receipt) for one in answers)


async def test_a_process_that_stops_during_a_flush_commits_also_what_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = await started(CoordinatorHarness(ack_wait_s=60.0, is_real_time=True, observer=FlushRecorder()))
    monkeypatch.setattr(report_committer, "flush_interval_s", lambda *_: 0.0)
    await harness.task(round="goal = 24")
    claims = await cohort(harness, 12)
    keys, may_write = block_put(harness, monkeypatch)
    first = [asyncio.create_task(send(harness, one, 1.0)) for one in claims[:4]]
    await until(lambda: len(keys) == 1)

    stopping = asyncio.create_task(harness.coordinator.stop())
    await asyncio.sleep(0)
    later = await sending(harness, claims[4:], 1.0)
    may_write.set()
    await stopping

    assert all(isinstance(one, Receipt) for one in await asyncio.gather(*first, *later))
    assert await counted(harness) == 12
    assert flush_sizes(harness) == [4, 8]
    assert isinstance(harness.observer, FlushRecorder)
    assert harness.observer.errors == []


async def test_a_stopped_scheduler_begins_no_flush(paced: CoordinatorHarness) -> None:
    await paced.task(round="goal = 16")
    claims = await cohort(paced, 4)
    await paced.coordinator._flushes.stop()

    waiting = await sending(paced, claims, 1.0)
    flushes = asyncio.all_tasks() - {*waiting, asyncio.current_task()}

    assert flushes == set()
    assert flush_sizes(paced) == []
    await paced.coordinator.stop()
    assert all(isinstance(one, Receipt) for one in await asyncio.gather(*waiting))


async def test_reports_and_check_ins_go_on_while_a_blob_is_written_and_form_the_next_batch(
    paced: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paced.task(round="goal = 16")
    claims = await cohort(paced, 9)
    keys, may_write = block_put(paced, monkeypatch)

    first = [asyncio.create_task(send(paced, one, 1.0)) for one in claims[:4]]
    await until(lambda: bool(keys))
    later = await sending(paced, claims[4:], 3.0)
    state_of(paced).flush_pace.next_at_s = 0.0  # the interval ends; the flush does not
    await sending(paced, await cohort(paced, 1), 3.0)
    under_way = (len(keys), state_of(paced).round_lock.locked(), await counted(paced))
    may_write.set()

    assert all(isinstance(one, Receipt) for one in await asyncio.gather(*first, *later))
    assert under_way == (1, False, 0)
    assert flush_sizes(paced) == [4, 6]
    (row,) = await paced.store.rounds.partials(FIRST)
    stored = PartialAggregate.from_bytes(await paced.blobs.get(row.key), LAYOUT.size)
    np.testing.assert_allclose(stored.sum, constant(4 * 1.0 + 6 * 3.0), rtol=1e-5)
    await paced.coordinator.stop()


async def test_a_task_that_is_cancelled_while_a_blob_is_written_counts_nothing_and_leaves_no_blob(
    paced: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await paced.task(round="goal = 8")
    claims = await cohort(paced, 4)
    keys, may_write = block_put(paced, monkeypatch)
    answers = [asyncio.create_task(send(paced, one, 1.0)) for one in claims]
    await until(lambda: bool(keys))

    await paced.coordinator.tasks.cancel(T, audit=AUDIT)
    may_write.set()
    await paced.coordinator._flushes.stop()

    assert await asyncio.gather(*answers) == [ProblemCode.ROUND_GONE] * 4
    assert await counted(paced) == 0
    assert [blob.key async for blob in paced.blobs.list_blobs() if blob.key.startswith("partials/")] == []
    await paced.coordinator.stop()


async def test_a_blob_store_that_fails_again_and_again_under_load_loses_no_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = await started(CoordinatorHarness(ack_wait_s=60.0, is_real_time=True))
    monkeypatch.setattr(report_committer, "flush_interval_s", lambda *_: 0.0)
    await harness.task(round="goal = 64\nmax_rounds = 1")
    claims = await cohort(harness, 64)
    put, writes = harness.blobs.put, list[str]()

    async def fail_at_first(key: str, data: bytes) -> None:
        writes.append(key)
        if key.startswith("partials/") and len(writes) % 3:
            raise StorageError("The disk is full.")
        await put(key, data)

    monkeypatch.setattr(harness.blobs, "put", fail_at_first)
    answers = asyncio.gather(*(send(harness, one, 1.0) for one in claims))
    while not answers.done():
        await asyncio.sleep(0)  # a pass over an empty batch gives way to nobody here
        await harness.coordinator.tick()
    monkeypatch.undo()
    await harness.coordinator.tick()

    assert all(isinstance(one, Receipt) for one in await answers)
    (closed,) = await listed_rounds(harness.coordinator, T)
    assert (closed.phase, closed.counted, closed.weight) == ("closed", 64, 64.0)
    np.testing.assert_allclose(await harness.model(1), constant(-1.0), rtol=1e-5)
    await harness.coordinator.stop()


async def test_a_kill_between_a_blob_and_its_transaction_leaves_no_sum_of_fewer_than_a_flush_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = await started(
        CoordinatorHarness(
            store=SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'keyflock.sqlite3'}"),
            blobs=LocalBlobStore(tmp_path / "blobs"),
            ack_wait_s=60.0,
        )
    )
    await harness.task(round="goal = 12")
    claims = await cohort(harness, 12)
    await asyncio.gather(*(send(harness, one, 1.0) for one in claims[:4]))
    is_committing = asyncio.Event()

    async def never(*_: object) -> Any:  # noqa: ANN401 - it never returns
        is_committing.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as killed:
        killed.setattr(harness.store.group_writer, "commit", never)
        lost = [asyncio.create_task(send(harness, one, 1.0)) for one in claims[4:8]]
        await is_committing.wait()
    files = [path for path in (tmp_path / "blobs" / "partials").rglob("*") if path.is_file()]
    sums = [PartialAggregate.from_bytes(path.read_bytes(), LAYOUT.size).count for path in files]
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    again = await asyncio.gather(*(send(harness, one, 1.0) for one in claims[4:12]))

    assert sorted(sums) == [4, 8]
    assert all(isinstance(one, Receipt) for one in again)
    assert await counted(harness) == 12
    assert sorted(row.count for row in await harness.store.rounds.partials(FIRST)) == [4, 8]
    for one in lost:
        one.cancel()
    await harness.coordinator.stop()


@pytest.mark.parametrize("is_malformed", [True, False])
async def test_a_phone_that_hangs_up_while_its_report_waits_to_be_decoded_leaves_no_entry_behind(
    paced: CoordinatorHarness, *, is_malformed: bool
) -> None:
    await paced.task(round="goal = 8")
    claims = await cohort(paced, 4)
    may_decode, batch = threading.Event(), open_round(paced).batch
    blocked = asyncio.create_task(paced.coordinator._deps.compute.run(may_decode.wait))
    await asyncio.sleep(0)
    message = Report(delta=b"nonsense", examples=1) if is_malformed else report(constant(1.0), of=claims[0])
    hanging_up = asyncio.create_task(paced.coordinator.reports.report(claims[0], message))
    await until(lambda: len(batch) == 1)

    hanging_up.cancel()
    may_decode.set()
    await blocked
    await until(lambda: len(batch) == 0 or batch.sum.size.reports == 1)
    left = (len(batch), batch.sum.size.reports)
    answers = await asyncio.gather(*(send(paced, one, 1.0) for one in claims))

    assert left == ((0, 0) if is_malformed else (1, 1))
    assert all(isinstance(one, Receipt) for one in answers)
    assert await counted(paced) == 4
    await paced.coordinator.stop()
