"""Several coordinators over one store: one closes, all take reports, and nothing is counted twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report, task_spec
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.messages import Assignment, CheckIn, Receipt
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.errors import StorageError, UnreadableRow
from keyflock_server.storage.interfaces.group_writer import OperationOutcome
from keyflock_server.storage.interfaces.tasks import LiveTask
from keyflock_server.storage.records import RoundRecord

T = TaskName("t")


@pytest.fixture
async def replicas(harness: CoordinatorHarness) -> AsyncIterator[list[Coordinator]]:
    """Start three processes, of which the first one leads."""
    started = [harness.another_coordinator(name) for name in ("a", "b", "c")]
    for replica in started:
        await replica.start()
    await tick(started)
    yield started
    for replica in started:
        await replica.stop()


async def tick(replicas: list[Coordinator]) -> None:
    for replica in replicas:
        await replica.tick()


async def assigned(
    harness: CoordinatorHarness, replica: Coordinator, identity: DeviceIdentity
) -> AssignmentClaims:
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10)
    answer = await replica.check_ins.check_in(identity, message)
    assert isinstance(answer, Assignment), answer
    return harness.claims(answer)


async def send(replica: Coordinator, claims: AssignmentClaims, value: float) -> Receipt | ProblemCode:
    try:
        return await replica.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code


async def create(replicas: list[Coordinator], lines: str) -> None:
    await replicas[-1].tasks.create(task_spec(round=lines), audit=AUDIT)
    await tick(replicas)
    await tick(replicas)


async def test_reports_that_came_to_three_replicas_are_one_aggregate(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 12\nover_selection = 0.0")
    claims = [await assigned(harness, replicas[n % 3], await harness.enrol()) for n in range(12)]

    for value, one in enumerate(claims, start=1):
        # Nobody reports to the replica that gave the work.
        await send(replicas[value % 3], one, float(value))
    partials = await harness.store.rounds.partials(RoundId("t-1"))
    await tick(replicas)

    assert [(row.replica, row.count) for row in partials] == [("a.1", 4), ("b.1", 4), ("c.1", 4)]
    (closed, _) = await listed_rounds(replicas[1], T)
    assert (closed.phase, closed.counted, closed.result_version) == ("closed", 12, 1)
    # 1 + 2 + … + 12 = 78, and delta is before minus after.
    np.testing.assert_array_equal(await harness.model(1), constant(-6.5))


async def test_a_report_that_waits_at_two_replicas_is_counted_once_and_acknowledged_by_both(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 8\nover_selection = 0.0")
    claims = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(8)]
    twice = claims[0]
    first = await send(replicas[0], twice, 100.0)
    second = await send(replicas[1], twice, 100.0)

    for one in claims[1:4]:
        await send(replicas[0], one, 4.0)
    for one in claims[4:8]:
        await send(replicas[1], one, 4.0)
    again = await send(replicas[1], twice, 100.0)
    await tick(replicas)

    assert (first, second) == (ProblemCode.REPORT_PENDING, ProblemCode.REPORT_PENDING)
    assert isinstance(again, Receipt)
    assert (again.counted, again.duplicate) == (True, True)
    (closed, _) = await listed_rounds(replicas[0], T)
    assert (closed.phase, closed.counted) == ("closed", 8)
    np.testing.assert_array_equal(await harness.model(1), constant(-16.0))


async def test_a_report_that_waits_at_one_replica_when_another_has_counted_it_and_closed_is_acknowledged(
    harness: CoordinatorHarness,
) -> None:
    harness.ack_wait_s = 10.0
    here, there = (harness.another_coordinator(name) for name in ("a", "b"))
    for replica in (here, there):
        await replica.start()
    await create([here, there], "goal = 4\nover_selection = 0.0")
    claims = [await assigned(harness, here, await harness.enrol()) for _ in range(4)]

    waiting = asyncio.create_task(send(there, claims[0], 1.0))
    while (held := there.registry._states[T].open_round) is None or not held.batch.sum.size.reports:  # noqa: ASYNC110 - no event is
        await asyncio.sleep(0)
    counted = await asyncio.gather(*(send(here, one, 1.0) for one in claims))
    await here.tick()
    await there.tick()
    answer = await waiting

    assert all(isinstance(one, Receipt) for one in counted)
    assert isinstance(answer, Receipt)
    assert (answer.counted, answer.duplicate) == (True, True)
    for replica in (here, there):
        await replica.stop()


async def test_whatever_replica_a_device_asks_it_has_one_assignment(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    identity = await harness.enrol()

    answers = [await assigned(harness, replica, identity) for replica in replicas]

    assert len({answer.assignment for answer in answers}) == 1
    (current,) = await listed_rounds(replicas[2], T)
    assert current.assigned == 1


async def test_a_device_that_was_assigned_elsewhere_gets_its_assignment_where_all_slots_are_taken(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    identities = [await harness.enrol() for _ in range(4)]
    first = [await assigned(harness, replicas[0], identity) for identity in identities]
    await tick(replicas)

    again = [await assigned(harness, replicas[1], identity) for identity in identities]

    assert [one.assignment for one in again] == [one.assignment for one in first]


async def test_the_leader_dies_and_another_replica_closes_the_round(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    survivors = replicas[1:]

    await tick(survivors)
    (waiting,) = await listed_rounds(survivors[0], T)
    harness.pass_time(11.0)
    await tick(survivors)

    (closed, _) = await listed_rounds(survivors[0], T)
    assert (waiting.phase, closed.phase) == ("collecting", "closed")
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_leader_that_stops_hands_over_at_once(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)

    await replicas[0]._leadership.release()
    harness.pass_time(4.0)  # the others renew three times a lease
    await tick(replicas[1:])

    (closed, _) = await listed_rounds(replicas[1], T)
    assert closed.phase == "closed"


async def test_a_leader_whose_pass_takes_longer_than_its_lease_leads_all_the_same(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    tasks, live = harness.store.tasks, harness.store.tasks.live

    async def slowly(unreadable: list[UnreadableRow] | None = None) -> dict[TaskName, LiveTask]:
        harness.pass_time(12.0)
        return await live(unreadable)

    tasks.live = slowly  # type: ignore[method-assign]  # the database, or this machine, is overloaded
    await tick(replicas)
    await tick(replicas)

    (closed, *_) = await listed_rounds(replicas[0], T)
    assert (closed.phase, closed.result_version) == ("closed", 1)


async def test_a_task_that_two_replicas_cancel_at_once_is_cancelled(replicas: list[Coordinator]) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    slow, quick = replicas[0], replicas[1]
    cancel = slow._rounds.cancel

    async def another_one_first(state: TaskState) -> None:
        await quick.tick()
        await quick.tasks.cancel(T, audit=AUDIT)
        await cancel(state)

    slow._rounds.cancel = another_one_first  # type: ignore[method-assign]  # the other is quicker
    view = await slow.tasks.cancel(T, audit=AUDIT)
    await tick(replicas)

    assert view.state == "cancelled"
    assert [[one.phase for one in await listed_rounds(replica, T)] for replica in replicas] == [
        ["cancelled"]
    ] * 3
    assert list(slow.registry) == []


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_two_that_believe_to_lead_open_one_round(
    harness: CoordinatorHarness, replicas: list[Coordinator], mode: str
) -> None:
    await create(replicas, f'mode = "{mode}"\ngoal = 4\nover_selection = 0.0')
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    slow, between, count = replicas[0], [replicas[1].tick], harness.store.rounds.count
    await slow.registry.sync()

    async def another_one_first(task: TaskName) -> tuple[int, int]:
        """Between closing a round and opening the next, the other opens it."""
        if between:
            replicas[1]._leadership._leads = True
            await between.pop()()
        return await count(task)

    harness.store.rounds.count = another_one_first  # type: ignore[method-assign]  # the other is quicker
    await slow._rounds.drive(slow.registry._states[T])
    await tick(replicas)

    rounds = await listed_rounds(slow, T)
    assert [(one.sequence, one.phase) for one in rounds] == [(1, "closed"), (2, "collecting")]


async def test_two_that_believe_to_lead_close_a_round_once(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    hung = replicas[0]
    between: list[Callable[[], Awaitable[None]]] = [replicas[1].tick]
    advance = harness.store.rounds.advance
    harness.pass_time(11.0)
    for one in (hung, replicas[1]):
        await one._leadership.renew()

    async def another_one_first(*what: object) -> RoundRecord:
        """Before each step that the one writes, the other takes a whole pass as leader too."""
        if between:
            other = between.pop()
            replicas[1]._leadership._leads = True
            await other()
        return await advance(*what)  # type: ignore[arg-type]  # handed on as they came

    harness.store.rounds.advance = another_one_first  # type: ignore[assignment, method-assign]  # the other is quicker
    await hung.tick()

    (closed, _) = await listed_rounds(hung, T)
    assert (closed.phase, closed.result_version) == ("closed", 1)
    assert [version.version for version in await harness.store.populations.versions()] == [0, 1]
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


@pytest.mark.parametrize("read", range(2))
async def test_one_that_finds_a_blob_gone_because_another_has_closed_the_round_goes_on_from_there(
    harness: CoordinatorHarness, replicas: list[Coordinator], read: int
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    hung, reads, get = replicas[0], iter(range(100)), harness.blobs.get
    harness.pass_time(11.0)
    for one in (hung, replicas[1]):
        await one._leadership.renew()
    await hung.registry.sync()

    async def another_one_first(key: str) -> bytes:
        """Before one of the blobs that the one reads, the other takes a whole pass as leader too."""
        if next(reads) == read:
            replicas[1]._leadership._leads = True
            await replicas[1].tick()
        return await get(key)

    harness.blobs.get = another_one_first  # type: ignore[method-assign]  # the other is quicker
    await hung._rounds.drive(hung.registry._states[T])

    (closed, *_) = await listed_rounds(hung, T)
    assert (closed.phase, closed.result_version, closed.counted) == ("closed", 1, 4)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.0))


async def test_a_blob_that_is_lost_is_told_and_nothing_goes_round_in_circles(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    (partial,) = await harness.store.rounds.partials(RoundId("t-1"))
    await harness.blobs.delete(partial.key)

    await replicas[0].tick()
    with pytest.raises(StorageError, match=partial.key):
        await replicas[0]._rounds.drive(replicas[0].registry._states[T])

    (stuck,) = await listed_rounds(replicas[0], T)
    assert (stuck.phase, stuck.counted) == ("closing", 4)


async def test_a_flush_whose_answer_got_lost_while_the_store_went_away_is_counted_once(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 8\nover_selection = 0.0")
    claims = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(8)]
    rounds, writer = harness.store.rounds, harness.store.group_writer
    commit, partials = writer.commit, rounds.partials

    async def away(*_: object) -> list[object]:
        raise StorageError("The database is away.")

    async def commit_and_lose(*what: object) -> list[OperationOutcome]:
        await commit(*what)  # type: ignore[arg-type]  # handed on as they came
        rounds.partials = away  # type: ignore[assignment, method-assign]  # nothing can be asked either
        raise StorageError("The connection was lost after the commit.")

    writer.commit = commit_and_lose  # type: ignore[assignment, method-assign]  # the answer gets lost
    for one in claims[:4]:
        await send(replicas[1], one, 1.0)
    writer.commit, rounds.partials = commit, partials  # type: ignore[method-assign]  # it is back
    for one in claims[4:]:
        await send(replicas[1], one, 2.0)
    await tick(replicas)

    (closed, _) = await listed_rounds(replicas[0], T)
    assert (closed.phase, closed.counted) == ("closed", 8)
    np.testing.assert_array_equal(await harness.model(1), constant(-1.5))


async def test_a_flush_that_is_committed_long_after_it_was_given_up_is_in_the_sum(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 12\nover_selection = 0.0")
    claims = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(12)]
    writer = harness.store.group_writer
    commit, on_its_way = writer.commit, []

    async def get_stuck(*what: object) -> list[OperationOutcome]:
        """The database has it all and does not get to it; whoever asks sees nothing of it yet."""
        writer.commit = commit  # type: ignore[method-assign]  # the next one goes through
        on_its_way.append(what)
        raise StorageError("No answer within 40 s.")

    writer.commit = get_stuck  # type: ignore[assignment, method-assign]  # the answer never comes
    for one in claims[:4]:
        await send(replicas[1], one, 1.0)
    await commit(*on_its_way[0])  # type: ignore[arg-type]  # as it was sent
    for one in claims[4:]:
        await send(replicas[1], one, 2.5)
    await tick(replicas)
    again = [await send(replicas[1], one, 1.0) for one in claims[:4]]

    (closed, _) = await listed_rounds(replicas[0], T)
    assert (closed.phase, closed.counted, closed.weight) == ("closed", 12, 12.0)
    np.testing.assert_array_equal(await harness.model(1), constant(-2.0))
    assert [one.duplicate for one in again if isinstance(one, Receipt)] == [True] * 4


@pytest.mark.parametrize("overtaken_at", range(4))
async def test_a_leader_that_was_overtaken_while_it_closed_opens_no_second_round(
    harness: CoordinatorHarness, replicas: list[Coordinator], overtaken_at: int
) -> None:
    await create(replicas, "goal = 4\nover_selection = 0.0")
    for _ in range(4):
        await send(replicas[1], await assigned(harness, replicas[2], await harness.enrol()), 1.0)
    slow, quick = replicas[0], replicas[1]
    advance, steps = harness.store.rounds.advance, iter(range(10))

    async def overtaken(*what: object) -> RoundRecord:
        """A step takes so long that the lease is over, and another replica closes and opens meanwhile."""
        if next(steps) == overtaken_at:
            harness.pass_time(11.0)
            await quick.tick()
        return await advance(*what)  # type: ignore[arg-type]  # handed on as they came

    harness.store.rounds.advance = overtaken  # type: ignore[assignment, method-assign]  # a slow machine
    await slow.tick()
    harness.store.rounds.advance = advance  # type: ignore[method-assign]  # it has caught up
    await tick(replicas)

    phases = [one.phase for one in await listed_rounds(quick, T)]
    assert phases == ["closed", "collecting"]
    assert [one.version for one in await harness.store.populations.versions()] == [0, 1]


async def test_at_the_deadline_every_replica_brings_what_waits_with_it(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 9\nminimum = 8\nover_selection = 0.0\ndeadline_s = 100.0")
    claims = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(9)]
    for one in claims[:4]:
        await send(replicas[1], one, 1.0)
    await tick(replicas)
    for one in claims[4:8]:
        await send(replicas[2], one, 3.0)
    (before,) = await listed_rounds(replicas[0], T)

    for _ in range(103):
        harness.pass_time(1.0)
        await tick(replicas)

    (closed, _) = await listed_rounds(replicas[0], T)
    # The second four would have left one phone to come, alone in its flush.
    assert (before.counted, closed.phase, closed.counted) == (4, "closed", 8)
    np.testing.assert_array_equal(await harness.model(1), constant(-2.0))


async def test_a_report_that_is_counted_while_the_leader_gives_the_round_up_for_want_of_any_is_carried(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, "goal = 8\nminimum = 8\nover_selection = 0.0\ndeadline_s = 100.0")
    claims = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(4)]
    harness.pass_time(103.0)
    advance = harness.store.rounds.advance

    async def counted_meanwhile(*what: object) -> RoundRecord:
        """The leader has read the row, found no report, and decided."""
        receipts.extend([await send(replicas[1], one, 1.0) for one in claims[len(receipts) :]])
        return await advance(*what)  # type: ignore[arg-type]  # handed on as they came

    receipts: list[Receipt | ProblemCode] = []
    harness.store.rounds.advance = counted_meanwhile  # type: ignore[assignment, method-assign]  # quicker
    await replicas[0].tick()
    await replicas[0].tick()

    assert isinstance(receipts[-1], Receipt)
    first, second = await listed_rounds(replicas[0], T)
    assert (first.phase, first.counted) == ("carried", 4)
    assert (second.phase, second.carried) == ("collecting", 4)


async def test_rows_that_were_read_before_the_process_itself_went_on_do_not_take_it_back(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, 'mode = "async"\ngoal = 8\nconcurrency = 24\ndeadline_s = 1000.0')
    leader, unfinished = replicas[0], harness.store.rounds.unfinished
    claims = [await assigned(harness, leader, await harness.enrol()) for _ in range(16)]
    for one in claims[:8]:
        await send(leader, one, 1.0)

    async def read_and_dawdle(unreadable: list[UnreadableRow] | None = None) -> list[RoundRecord]:
        """Between the reading of the rows and what follows from them, the leader closes and opens."""
        rows = await unfinished(unreadable)
        harness.store.rounds.unfinished = unfinished  # type: ignore[method-assign]  # once is enough
        await leader._rounds.drive(leader.registry._states[T])
        for one in claims[8:12]:
            await send(leader, one, 3.0)
        return rows

    harness.store.rounds.unfinished = read_and_dawdle  # type: ignore[method-assign]  # somebody else reads slowly
    await leader.registry.sync()
    await leader.tick()
    for one in claims[12:]:
        await send(leader, one, 5.0)
    (partial,) = await harness.store.rounds.partials(RoundId("t-2"))
    await leader.tick()

    assert partial.count == 8
    first, second, _ = await listed_rounds(leader, T)
    assert [(one.phase, one.counted) for one in (first, second)] == [("closed", 8), ("closed", 8)]


async def test_two_tasks_of_one_population_step_the_same_model_one_after_the_other(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    for name in ("t", "u"):
        await replicas[0].tasks.create(task_spec(name, round="goal = 4\nover_selection = 0.0"), audit=AUDIT)
    await tick(replicas)
    await tick(replicas)
    claims = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(8)]

    for one in claims:
        await send(replicas[0], one, 1.0)
    await tick(replicas)

    rounds = [await listed_rounds(replicas[0], TaskName(name)) for name in ("t", "u")]
    assert [(mine[0].model_version, mine[0].result_version) for mine in rounds] == [(0, 1), (0, 2)]
    np.testing.assert_array_equal(await harness.model(2), constant(-2.0))


async def test_a_report_from_a_newer_model_than_its_replica_knows_has_its_whole_weight(
    harness: CoordinatorHarness, replicas: list[Coordinator]
) -> None:
    await create(replicas, 'mode = "async"\ngoal = 4\nconcurrency = 12\ndeadline_s = 1000.0')
    for _ in range(2):
        for one in [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(4)]:
            await send(replicas[0], one, 1.0)
        await replicas[0].tick()  # the others have not heard of it
    newer = [await assigned(harness, replicas[0], await harness.enrol()) for _ in range(4)]

    early = [await send(replicas[1], one, 1.0) for one in newer]
    await tick(replicas)
    again = [await send(replicas[1], one, 1.0) for one in newer]

    assert {one.model_version for one in newer} == {2}
    assert early[:3] == [ProblemCode.REPORT_PENDING] * 3
    assert all(isinstance(one, Receipt) for one in again)
    (*_, third, _) = await listed_rounds(replicas[0], T)
    assert (third.phase, third.counted, third.weight) == ("closed", 4, 4.0)
