"""A flush whose store fails in the middle: nobody is acknowledged who is not counted, and nobody twice."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_server.coordinator import Coordinator, report_committer
from keyflock_server.coordinator.events import NullObserver
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Failure, FailureCause, Receipt, Report
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import PartialSuperseded, StorageError
from keyflock_server.storage.interfaces.group_writer import OperationOutcome

T, FIRST = TaskName("t"), RoundId("t-1")
BUFFER = 'mode = "async"\ngoal = 4\nconcurrency = 24\ndeadline_s = 1000.0'


@dataclass
class FlushRecorder(NullObserver):
    """Records the flushes that were committed and the errors of those that were not."""

    committed: list[tuple[str, int, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    intervals_s: list[float] = field(default_factory=list)

    def flushed(self, task: TaskName, reports: int, duration_s: float, interval_s: float) -> None:
        self.committed.append((task, reports, duration_s))
        self.intervals_s.append(interval_s)

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        self.errors.append(f"{task}: {error}")


@pytest.fixture
def recorder(harness: CoordinatorHarness) -> FlushRecorder:
    """Return the observer of the harness's coordinator."""
    recorder = FlushRecorder()
    object.__setattr__(harness.coordinator._deps, "observer", recorder)
    return recorder


async def send_each(
    harness: CoordinatorHarness, claims: list[AssignmentClaims], value: float
) -> list[Receipt | ProblemCode]:
    return [await send(harness, one, value) for one in claims]


async def partial_keys(harness: CoordinatorHarness) -> set[str]:
    return {blob.key async for blob in harness.blobs.list_blobs() if blob.key.startswith("partials/")}


async def fail(*_: object, **__: object) -> Any:  # noqa: ANN401 - whatever the call would return
    raise StorageError("The disk is full.")


def lose_the_answer(
    of: Callable[..., Awaitable[list[OperationOutcome]]],
) -> Callable[..., Awaitable[list[OperationOutcome]]]:
    """Return a call that is done, and whose answer never arrives."""

    async def call(*what: object) -> list[OperationOutcome]:
        await of(*what)
        raise StorageError("The connection was lost after the commit.")

    return call


async def test_reports_whose_flush_was_not_answered_are_acknowledged_without_another_report(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)

    monkeypatch.setattr(
        harness.store.group_writer, "commit", lose_the_answer(harness.store.group_writer.commit)
    )
    answers = await send_each(harness, claims, 1.0)

    assert isinstance(answers[-1], Receipt)
    assert all(isinstance(one, Receipt) for one in await send_each(harness, claims, 1.0))


async def test_a_flush_that_was_not_answered_is_asked_about_at_the_next_pass(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    with monkeypatch.context() as away:
        away.setattr(harness.store.group_writer, "commit", lose_the_answer(harness.store.group_writer.commit))
        away.setattr(harness.store.rounds, "partials", fail)
        unsure = await send_each(harness, claims, 1.0)

    await harness.coordinator.tick()

    assert unsure == [ProblemCode.REPORT_PENDING] * 4
    assert all(isinstance(one, Receipt) for one in await send_each(harness, claims, 1.0))


async def test_a_buffer_does_not_close_before_it_is_known_whether_its_last_flush_was_committed(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 8)
    await send_each(harness, claims[:4], 1.0)
    with monkeypatch.context() as away:
        away.setattr(harness.store.group_writer, "commit", fail)
        away.setattr(harness.store.rounds, "partials", fail)
        unsure = await send_each(harness, claims[4:], 1.0)
        await harness.coordinator.tick()

    for _ in range(3):
        await harness.coordinator.tick()

    assert unsure == [ProblemCode.REPORT_PENDING] * 4
    assert all(isinstance(one, Receipt) for one in await send_each(harness, claims[4:], 1.0))


async def test_an_earlier_flush_of_the_process_does_not_acknowledge_one_that_failed(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 12")
    claims = await cohort(harness, 8)
    await send_each(harness, claims[:4], 1.0)

    with monkeypatch.context() as broken:
        broken.setattr(harness.store.group_writer, "commit", fail)
        failed = await send_each(harness, claims[4:], 3.0)
        again = await send_each(harness, claims[4:], 3.0)
    await harness.coordinator.tick()

    assert failed == again == [ProblemCode.REPORT_PENDING] * 4
    assert all(isinstance(one, Receipt) for one in await send_each(harness, claims[4:], 3.0))
    (current,) = await listed_rounds(harness.coordinator, T)
    assert (current.counted, current.weight) == (8, 8.0)


@pytest.mark.parametrize("call", ["put", "partials"])
async def test_a_flush_that_fails_before_its_transaction_leaves_its_batch_as_it_was(
    harness: CoordinatorHarness, recorder: FlushRecorder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await harness.task(round="goal = 4\nmax_rounds = 1")
    claims = await cohort(harness, 4)

    with monkeypatch.context() as broken:
        if call == "put":
            broken.setattr(harness.blobs, "put", fail)
        else:  # a flush that was not answered, and cannot be asked about
            broken.setattr(harness.store.group_writer, "commit", fail)
            broken.setattr(harness.store.rounds, "partials", fail)
        failed = await send_each(harness, claims, 1.0)
        await harness.coordinator.tick()
    await harness.coordinator.tick()

    assert failed == [ProblemCode.REPORT_PENDING] * 4
    assert set(recorder.errors) == {"t: The disk is full."}
    assert len(recorder.errors) >= 2
    (closed,) = await listed_rounds(harness.coordinator, T)
    assert (closed.phase, closed.counted, closed.weight) == ("closed", 4, 4.0)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_partial_aggregate_that_moves_again_and_again_is_not_insisted_on(
    harness: CoordinatorHarness, recorder: FlushRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 4")
    claims = await cohort(harness, 4)
    commit, moves = harness.store.group_writer.commit, list(range(6))

    async def moved(*what: Any) -> list[OperationOutcome]:  # noqa: ANN401 - handed on as they came
        if not moves:
            return await commit(*what)
        raise PartialSuperseded(FIRST.removesuffix(f"{moves.pop()}"))

    monkeypatch.setattr(harness.store.group_writer, "commit", moved)
    answer = (await send_each(harness, claims, 1.0))[-1]

    assert answer is ProblemCode.REPORT_PENDING
    assert len(moves) == 4  # it was tried twice
    assert recorder.errors == ["t: t-1"]
    for _ in range(3):
        await harness.coordinator.tick()
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_process_that_reloads_its_sum_takes_its_own_and_does_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = CoordinatorHarness()
    here, there = await replicas(harness, "goal = 16")
    recorder = FlushRecorder()
    object.__setattr__(there._deps, "observer", recorder)
    claims = await cohort(harness, 16)
    await send_each(harness, claims[:4], 1.0)
    rounds, writer = harness.store.rounds, harness.store.group_writer
    commit, on_its_way = writer.commit, []

    async def get_stuck(*what: Any) -> list[OperationOutcome]:  # noqa: ANN401 - handed on as they came
        writer.commit = commit  # type: ignore[method-assign]  # the next one goes through
        on_its_way.append(what)
        raise StorageError("No answer within 40 s.")

    harness.coordinator = there
    writer.commit = get_stuck  # type: ignore[assignment, method-assign]  # the answer never comes
    await send_each(harness, claims[4:8], 2.0)
    await commit(*on_its_way[0])
    with monkeypatch.context() as away:
        away.setattr(rounds, "partials", fail)
        unread = await send_each(harness, claims[8:12], 6.0)
    await there.tick()
    with monkeypatch.context() as away:
        away.setattr(rounds, "partials", fail)  # it knows its sum again, and reads nothing
        last = await send_each(harness, claims[12:], 7.0)
    for one in (here, there):
        await one.tick()

    assert unread == [ProblemCode.REPORT_PENDING] * 4
    assert isinstance(last[-1], Receipt)
    assert recorder.errors == ["t: No answer within 40 s.", "t: The disk is full."]
    np.testing.assert_array_equal(await harness.model(1), constant(-4.0))


@pytest.mark.parametrize("is_deletable", [True, False])
async def test_the_sum_that_a_flush_replaces_is_deleted_and_if_it_cannot_be_it_is_left(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch, *, is_deletable: bool
) -> None:
    await harness.task(round="goal = 12")
    claims = await cohort(harness, 8)
    deleted, delete = [], harness.blobs.delete

    async def recorded(key: str) -> None:
        deleted.append(key)
        await (delete(key) if is_deletable else fail())

    monkeypatch.setattr(harness.blobs, "delete", recorded)
    first = await send_each(harness, claims[:4], 1.0)
    replaced = await partial_keys(harness)
    monkeypatch.setattr(harness.store.rounds, "partials", fail)  # it knows its sum, and does not read it
    second = await send_each(harness, claims[4:], 1.0)
    monkeypatch.undo()

    assert isinstance(first[-1], Receipt)
    assert isinstance(second[-1], Receipt)
    assert deleted == list(replaced)
    (row,) = await harness.store.rounds.partials(FIRST)
    keys = await partial_keys(harness)
    assert row.key in keys
    assert len(keys) == (1 if is_deletable else 2)


async def replicas(harness: CoordinatorHarness, lines: str) -> tuple[Coordinator, Coordinator]:
    """Start two processes with one task; the first leads, and is the harness's."""
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    harness.coordinator = here
    for one in (here, there):
        await one.start()
    await harness.create_population()
    await harness.task(round=f"{lines}\nover_selection = 0.0")
    await there.tick()
    return here, there


async def waiting_at(
    coordinator: Coordinator, claims: AssignmentClaims, message: Report
) -> asyncio.Task[Receipt]:
    """Send a report, and return its request once the report is summed."""
    sending = asyncio.create_task(coordinator.reports.report(claims, message))
    opened = coordinator.registry._states[T].open_round
    assert opened is not None
    before = opened.batch.sum.size.reports
    while opened.batch.sum.size.reports == before and not sending.done():  # noqa: ASYNC110 - no event is
        await asyncio.sleep(0)
    return sending


@pytest.mark.parametrize("value", [1.0, 7.0], ids=["the same report", "another report"])
@pytest.mark.parametrize("is_deletable", [True, False])
async def test_a_report_that_waits_while_another_process_counts_one_of_its_assignment_hears_what_became_of_it(
    monkeypatch: pytest.MonkeyPatch, value: float, *, is_deletable: bool
) -> None:
    harness = CoordinatorHarness(ack_wait_s=60.0)
    here, there = await replicas(harness, "goal = 12")
    claims = await cohort(harness, 12)

    twice = await waiting_at(there, claims[0], report(constant(value), of=claims[0]))
    await asyncio.gather(*(send(harness, one, 1.0) for one in claims[:4]))
    if not is_deletable:
        monkeypatch.setattr(harness.blobs, "delete", fail)
    harness.coordinator = there
    others = asyncio.gather(*(send(harness, one, 1.0) for one in claims[4:7]))
    answer: Receipt | ProblemCode
    try:
        answer = await twice
    except ApiError as refused:
        answer = refused.code
    # Without it there are three, too few to be committed.
    counted_there = [row for row in await harness.store.rounds.partials(FIRST) if row.replica != "a.1"]
    last = asyncio.create_task(send(harness, claims[7], 1.0))
    while (
        not last.done()
    ):  # a pass finds enough of them, if the last one came while the three were given back
        await asyncio.sleep(0)
        await there.tick()
    rows = await harness.store.rounds.partials(FIRST)

    if value == 1.0:
        assert isinstance(answer, Receipt)
        assert (answer.counted, answer.duplicate) == (True, False)
    else:
        assert answer is ProblemCode.REPORT_CONFLICT
    assert counted_there == []
    assert all(isinstance(one, Receipt) for one in [await last, *(await others)])
    assert [(row.replica, row.count) for row in rows] == [("a.1", 4), ("b.1", 4)]
    if is_deletable:
        assert await partial_keys(harness) == {row.key for row in rows}
    for one in (here, there):
        await one.stop()


async def test_a_report_that_waits_while_its_assignment_is_given_back_elsewhere_is_not_counted() -> None:
    harness = CoordinatorHarness(ack_wait_s=60.0)
    here, there = await replicas(harness, "goal = 12")
    claims = await cohort(harness, 4)
    waiting = await waiting_at(there, claims[0], report(constant(1.0), of=claims[0]))

    await here.reports.failure(claims[0], Failure(cause=FailureCause.INTERRUPTED))
    for one in claims[1:]:
        others = await waiting_at(there, one, report(constant(1.0), of=one))
    while not waiting.done():
        await asyncio.sleep(0)
        await there.tick()

    with pytest.raises(ApiError) as refused:
        await waiting
    assert refused.value.code is ProblemCode.ROUND_GONE
    for coordinator in (here, there):
        await coordinator.stop()
    with pytest.raises(ApiError):
        await others


async def test_a_forgotten_device_whose_row_is_gone_takes_no_other_report_with_it() -> None:
    """A buffer's assignment of an earlier round goes with its device, before another process has noticed."""
    harness = CoordinatorHarness(ack_wait_s=60.0)
    here, there = await replicas(harness, BUFFER)
    phones = [await harness.enrol() for _ in range(10)]
    claims = [await harness.assigned(phone) for phone in phones]
    await asyncio.gather(*(send(harness, one, 1.0) for one in claims[:4]))
    for one in (here, there):
        await one.tick()  # the round of the assignments is over

    forgotten = await waiting_at(there, claims[4], report(constant(9.0), of=claims[4]))
    await harness.forget(phones[4])
    harness.coordinator = there
    sending = asyncio.gather(*(send(harness, one, 1.0) for one in claims[5:9]))
    while not sending.done():
        await asyncio.sleep(0)
        await there.tick()
    answers = await sending

    with pytest.raises(ApiError) as refused:
        await forgotten
    assert refused.value.code is ProblemCode.TOKEN_INVALID
    assert all(isinstance(one, Receipt) for one in answers)
    assert [row.count for row in await harness.store.rounds.partials(RoundId("t-2"))] == [4]
    for one in (here, there):
        await one.stop()


async def test_a_round_that_is_ending_is_not_asked_to_count_more(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round=BUFFER)
    claims = await cohort(harness, 8)
    await send_each(harness, claims[:4], 1.0)
    asked: list[object] = []

    async def count(*what: object) -> list[OperationOutcome]:
        asked.extend(what)
        raise StorageError("No flush was expected.")

    with monkeypatch.context() as stuck:
        stuck.setattr(harness.blobs, "get", fail)
        stuck.setattr(harness.store.group_writer, "commit", count)
        await harness.coordinator.tick()  # its sum cannot be read, so it does not close
        await send_each(harness, claims[4:], 1.0)
        await harness.coordinator.tick()
    await harness.coordinator.tick()
    await harness.coordinator.tick()

    assert asked == []
    assert [one.phase for one in await listed_rounds(harness.coordinator, T)] == [
        "closed",
        "closed",
        "collecting",
    ]


async def test_reports_of_a_buffer_that_another_process_closed_first_wait_for_the_next() -> None:
    harness = CoordinatorHarness()
    here, there = await replicas(harness, BUFFER)
    recorder = FlushRecorder()
    object.__setattr__(there._deps, "observer", recorder)
    claims = await cohort(harness, 8)
    await send_each(harness, claims[:4], 1.0)
    await here.tick()

    harness.coordinator = there  # which does not know yet
    early = await send_each(harness, claims[4:], 1.0)
    for one in (there, here):
        await one.tick()
    again = await send_each(harness, claims[4:], 1.0)

    assert early == [ProblemCode.REPORT_PENDING] * 4
    assert all(isinstance(one, Receipt) for one in again)
    assert recorder.errors == []  # somebody else was first, and that is no failure
    assert await partial_keys(harness) == set()
    for one in (here, there):
        await one.stop()


async def test_a_device_that_is_forgotten_while_it_is_counted_disturbs_nobody(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8")
    phones = [await harness.enrol() for _ in range(4)]
    claims = [await harness.assigned(phone) for phone in phones]
    commit, forgetting = harness.store.group_writer.commit, []

    async def commit_and_forget(*what: Any) -> list[OperationOutcome]:  # noqa: ANN401 - handed on as they came
        after = await commit(*what)
        forgetting.append(asyncio.create_task(harness.forget(phones[0])))
        while claims[0].assignment in members:  # noqa: ASYNC110 - no event is
            await asyncio.sleep(0)
        return after

    opened = harness.coordinator.registry._states[T].open_round
    assert opened is not None
    members = opened.members
    monkeypatch.setattr(harness.store.group_writer, "commit", commit_and_forget)
    answers = await send_each(harness, claims, 1.0)

    assert isinstance(answers[-1], Receipt)
    assert await asyncio.gather(*forgetting) == [1]
    assert all(isinstance(one, Receipt) for one in await send_each(harness, claims[1:], 1.0))


@pytest.mark.parametrize(
    ("sent", "stored"), [("-v[]+", "-v[]+^"), ("-" + "v" * 31, "v" * 31 + "^")], ids=["short", "longest"]
)
async def test_what_is_stored_of_a_counted_report_is_when_it_came_and_how_its_session_went(
    harness: CoordinatorHarness, sent: str, stored: str
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    began = harness.now
    for one in claims:
        message = report(constant(1.0), examples=2, of=one)
        harness.pass_time(10.0)
        with contextlib.suppress(ApiError):  # the first three wait for the fourth
            await harness.coordinator.reports.report(
                one, Report(delta=message.delta, examples=2, session_shape=sent)
            )

    row = await harness.store.assignments.get(FIRST, claims[0].device)

    assert row is not None
    assert (row.session_shape, row.weight, row.counted_in) == (stored, 2.0, FIRST)
    assert row.counted_at == began + timedelta(seconds=10)


async def test_an_observer_hears_how_many_reports_a_flush_counted_and_how_long_it_took(
    harness: CoordinatorHarness, recorder: FlushRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)
    watch = SimpleNamespace(monotonic=iter([100.0, 101.0, 102.5]).__next__, thread_time=lambda: 0.0)

    monkeypatch.setattr(report_committer, "time", watch)
    await send_each(harness, claims, 1.0)

    assert recorder.committed == [("t", 4, 2.5)]
    assert recorder.errors == []
