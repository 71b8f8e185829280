"""Group commit: groups form by themselves, and nobody's fate depends on who else is in the group."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from keyflock_server.coordinator.group_commit import MAX_GROUP_ROWS, GroupCommit
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, PopulationName, RoundId
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import PopulationGone, StorageUnavailable
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    Operation,
    OperationOutcome,
)
from keyflock_server.storage.records import CountedReport, DeviceRecord, PartialRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROUND_ID = RoundId("t-1")


class StoppableWriter:
    """A writer that notes its groups, and commits each when it is let."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        #: What the operation of this device gives; nothing for all others.
        self.outcomes: dict[str, Exception] = {}
        #: What the next group fails with.
        self.failure: BaseException | None = None
        self.may_commit = asyncio.Event()
        self.may_commit.set()

    async def commit(self, operations: Sequence[Operation]) -> list[OperationOutcome]:
        self.groups.append([label(one) for one in operations])
        await self.may_commit.wait()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return [self.outcomes.get(label(one)) for one in operations]


def label(operation: Operation) -> str:
    match operation:
        case AddDevice(device):
            return device.id
        case CountReports(partial):
            return partial.key
        case _:
            raise AssertionError(operation)


def add(name: str) -> AddDevice:
    return AddDevice(
        DeviceRecord(
            id=DeviceId(name),
            population=PopulationName("en"),
            user_digest=None,
            app_build=1,
            locale="en",
            enrolled_at=NOW,
            last_seen_at=NOW,
        )
    )


def flush(key: str, reports: int) -> CountReports:
    of = [
        CountedReport(
            id=AssignmentId(f"{number}"),
            round_id=ROUND_ID,
            device=DeviceId(f"{number}"),
            report_digest=b"",
            weight=1.0,
            session_shape="",
        )
        for number in range(reports)
    ]
    return CountReports(PartialRecord(round_id=ROUND_ID, replica="r", key=key, count=1, weight=1.0), of, NOW)


async def submitted(writes: GroupCommit, *operations: AddDevice | CountReports) -> list[asyncio.Task[object]]:
    """Submit operations, each from an asyncio task of its own, in order."""

    async def submit(operation: AddDevice | CountReports) -> object:
        return await writes.submit(operation)

    tasks = [asyncio.create_task(submit(one)) for one in operations]
    await asyncio.sleep(0)
    return tasks


async def test_an_operation_that_finds_no_transaction_under_way_is_committed_at_once() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer)

    await writes.submit(add("a"))
    await writes.submit(add("b"))

    assert writer.groups == [["a"], ["b"]]


async def test_what_arrives_during_a_transaction_is_committed_together_in_the_next_one() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer)
    writer.may_commit.clear()
    first = await submitted(writes, add("a"))
    await asyncio.sleep(0)
    others = await submitted(writes, add("b"), add("c"), add("d"))

    are_early = [task.done() for task in first + others]
    writer.may_commit.set()
    await asyncio.gather(*first, *others)

    assert are_early == [False] * 4
    assert writer.groups == [["a"], ["b", "c", "d"]]


async def test_a_refusal_is_raised_where_it_was_asked_for() -> None:
    writer = StoppableWriter()
    writer.outcomes["b"] = PopulationGone("en")
    writes = GroupCommit(writer)

    a, b, c = await asyncio.gather(
        *await submitted(writes, add("a"), add("b"), add("c")), return_exceptions=True
    )

    assert (a, c) == (None, None)
    assert isinstance(b, PopulationGone)
    assert writer.groups == [["a", "b", "c"]]


async def test_a_store_that_fails_fails_the_whole_group_and_not_the_next_one() -> None:
    writer = StoppableWriter()
    writer.failure = StorageUnavailable("The disk is full.")
    writes = GroupCommit(writer)

    failed = await asyncio.gather(*await submitted(writes, add("a"), add("b")), return_exceptions=True)
    await writes.submit(add("c"))

    assert [type(one) for one in failed] == [StorageUnavailable, StorageUnavailable]
    assert writer.groups == [["a", "b"], ["c"]]


async def test_a_caller_that_gives_up_does_not_take_the_others_with_it() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer)
    writer.may_commit.clear()
    running = await submitted(writes, add("a"), add("b"))
    await asyncio.sleep(0)
    waiting = await submitted(writes, add("c"), add("d"))

    running[0].cancel()  # its transaction has begun
    waiting[0].cancel()  # its transaction has not
    await asyncio.sleep(0)
    writer.may_commit.set()
    answers = await asyncio.gather(*running, *waiting, return_exceptions=True)

    assert [type(one) for one in answers] == [
        asyncio.CancelledError,
        type(None),
        asyncio.CancelledError,
        type(None),
    ]
    assert writer.groups == [["a", "b"], ["d"]]


async def test_a_group_has_at_most_so_many_rows_and_at_least_one_operation() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer)
    writer.may_commit.clear()
    first = await submitted(writes, add("first"))
    await asyncio.sleep(0)
    tasks = await submitted(
        writes,
        flush("half", MAX_GROUP_ROWS - 1),
        add("a"),
        add("b"),
        flush("whole", 2 * MAX_GROUP_ROWS),
        add("c"),
    )

    writer.may_commit.set()
    await asyncio.gather(*first, *tasks)

    assert writer.groups == [["first"], ["half", "a"], ["b"], ["whole"], ["c"]]


async def test_where_too_many_wait_a_phone_is_sent_away_and_a_flush_is_not() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer, max_waiting=2)
    writer.may_commit.clear()
    tasks = await submitted(writes, add("a"))
    await asyncio.sleep(0)
    tasks += await submitted(writes, add("b"), add("c"))

    with pytest.raises(ApiError) as refused:
        await writes.submit(add("d"))
    tasks += await submitted(writes, flush("sum", 4))
    writer.may_commit.set()
    await asyncio.gather(*tasks)

    assert refused.value.code is ProblemCode.OVERLOADED
    assert refused.value.retry == ReturnWindow(min_s=5.0, max_s=30.0)
    assert writer.groups == [["a"], ["b", "c", "sum"]]


async def test_draining_waits_for_all_that_was_submitted() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer)
    await writes.drain()  # nothing is there to wait for
    writer.may_commit.clear()
    tasks = await submitted(writes, add("a"))
    await asyncio.sleep(0)
    tasks += await submitted(writes, add("b"))
    draining = asyncio.create_task(writes.drain())
    await asyncio.sleep(0)
    was_drained = draining.done()

    writer.may_commit.set()
    await draining

    assert not was_drained
    assert [task.done() for task in tasks] == [True, True]


async def test_an_event_loop_that_ends_leaves_nobody_waiting() -> None:
    writer = StoppableWriter()
    writes = GroupCommit(writer)
    writer.failure = asyncio.CancelledError()
    writer.may_commit.clear()
    tasks = await submitted(writes, add("a"))
    await asyncio.sleep(0)
    tasks += await submitted(writes, add("b"))

    writer.may_commit.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(one) for one in answers] == [asyncio.CancelledError] * 2
