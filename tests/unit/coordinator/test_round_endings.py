"""An operator ends a round before its time; what was acknowledged is in a sum exactly once, or given up."""

from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.diverging_task import cohort, held_round, play, refusal, send
from tests.unit.coordinator.harness import CoordinatorHarness, constant, task_spec

from keyflock_server.coordinator import Coordinator
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Receipt
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.storage.interfaces.audit import AuditFilter

FIRST, SECOND = RoundId("t-1"), RoundId("t-2")
TEN = "goal = 10\nminimum = 6\nover_selection = 0.0"
TWENTY = "goal = 20\nminimum = 8\nover_selection = 0.0"
NOW = replace(AUDIT, reason="enough for today", action="round.close")


async def some_reports(harness: CoordinatorHarness, count: int, round_toml: str = TEN) -> None:
    """Open a round and let some phones report; what is enough for a flush is counted."""
    await harness.task(round=round_toml)
    for one in await cohort(harness, count):
        await send(harness, one)


async def close(harness: CoordinatorHarness, round_id: RoundId = FIRST) -> RoundView:
    return await harness.coordinator.tasks.close_round(round_id, audit=NOW)


async def abandon(harness: CoordinatorHarness, *, drops: bool = False) -> RoundView:
    return await harness.coordinator.tasks.abandon_round(FIRST, drops=drops, audit=NOW)


async def test_a_round_with_its_minimum_closes_at_once_and_makes_a_version_of_what_it_has(
    harness: CoordinatorHarness,
) -> None:
    await some_reports(harness, 8)

    ordered = await close(harness)
    await harness.coordinator.tick()
    closed = await harness.coordinator.tasks.round(FIRST)
    again = await close(harness)

    assert ordered.phase == "closing"
    assert (closed.phase, closed.counted, closed.result_version) == ("closed", 8, 1)
    assert again == closed
    np.testing.assert_allclose(await harness.model(1), constant(-1.0), atol=1e-2)
    (entry,) = await harness.store.audit.page(AuditFilter(action="round.close"), None, 10)
    assert (entry.subject, entry.reason) == (FIRST, NOW.reason)


async def test_what_waits_for_its_flush_is_counted_before_the_round_closes(
    harness: CoordinatorHarness,
) -> None:
    await some_reports(harness, 8)
    before = await harness.coordinator.tasks.round(FIRST)

    closed = await close(harness)

    assert (before.counted, closed.counted) == (4, 8)


async def test_a_round_below_its_minimum_is_not_closed_and_says_what_it_lacks(
    harness: CoordinatorHarness,
) -> None:
    await some_reports(harness, 4)

    refused = await refusal(close(harness))

    assert refused is ProblemCode.CONFLICT
    assert (await harness.coordinator.tasks.round(FIRST)).phase == "collecting"


async def test_an_abandoned_rounds_reports_go_into_the_next_one_where_the_task_says_so(
    harness: CoordinatorHarness,
) -> None:
    await some_reports(harness, 4)

    ended = await abandon(harness)
    following = await harness.coordinator.tasks.round(SECOND)
    for one in await cohort(harness, 6):
        await send(harness, one, 2.0)
    await harness.coordinator.tick()

    assert (ended.phase, following.carried) == ("carried", 4)
    assert "carried into the next round" in ended.detail
    assert NOW.reason in ended.detail
    np.testing.assert_allclose(await harness.model(1), constant(-1.6), atol=1e-2)


@pytest.mark.parametrize(("round_toml", "drops"), [(TEN + '\non_miss = "abandon"', False), (TEN, True)])
async def test_else_they_are_dropped_and_nothing_of_them_stays(
    harness: CoordinatorHarness, round_toml: str, drops: bool
) -> None:
    await some_reports(harness, 4, round_toml)

    ended = await abandon(harness, drops=drops)
    again = await abandon(harness)
    await harness.coordinator.tick()
    following = await harness.coordinator.tasks.round(SECOND)

    assert (ended.phase, again.phase, following.carried) == ("abandoned", "abandoned", 0)
    assert "The sum of 4 reports was discarded." in ended.detail
    assert await harness.store.rounds.partials(FIRST) == []
    assert len(await harness.store.audit.page(AuditFilter(action="round.close"), None, 10)) == 1


async def test_an_abandoned_buffer_is_followed_by_another_one(harness: CoordinatorHarness) -> None:
    await some_reports(harness, 4, 'mode = "async"\ngoal = 10\nconcurrency = 12')

    ended = await abandon(harness)
    await harness.coordinator.tick()

    assert ended.phase == "abandoned"
    assert (await harness.coordinator.tasks.round(SECOND)).phase == "collecting"


async def test_a_held_round_is_decided_and_one_that_is_over_is_left_alone(
    harness: CoordinatorHarness,
) -> None:
    await held_round(harness)

    held = await refusal(abandon(harness))
    await harness.coordinator.tasks.discard_round(FIRST, audit=AUDIT)
    discarded = [await refusal(abandon(harness)), await refusal(close(harness))]
    unknown = await refusal(close(harness, RoundId("t-99")))

    assert [held, *discarded] == [ProblemCode.CONFLICT] * 3
    assert unknown is ProblemCode.NOT_FOUND


@pytest.fixture
async def pair(harness: CoordinatorHarness) -> AsyncIterator[tuple[Coordinator, Coordinator]]:
    """The leader, and another process over the same store."""
    leader, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    await leader.start()
    await other.start()
    yield leader, other
    await leader.stop()
    await other.stop()


async def test_a_process_that_does_not_lead_may_order_it_and_the_leader_closes(
    harness: CoordinatorHarness, pair: tuple[Coordinator, Coordinator]
) -> None:
    leader, other = pair
    await leader.tasks.create(task_spec(round=TWENTY), audit=AUDIT)
    await leader.tick()
    await other.tick()
    harness.coordinator = leader
    receipts = [await send(harness, one) for one in await cohort(harness, 8)]

    ordered = await other.tasks.close_round(FIRST, audit=NOW)
    await leader.tick()
    closed = await leader.tasks.round(FIRST)

    assert ordered.phase == "closing"
    assert (closed.phase, closed.counted) == ("closed", 8)
    assert isinstance(receipts[-1], Receipt)


async def test_a_process_that_does_not_lead_may_abandon_and_the_leader_opens_the_next_round(
    pair: tuple[Coordinator, Coordinator],
) -> None:
    leader, other = pair
    await leader.tasks.create(task_spec(round=TEN), audit=AUDIT)
    await leader.tick()
    await other.tick()

    ended = await other.tasks.abandon_round(FIRST, drops=True, audit=NOW)
    await leader.tick()
    await leader.tick()

    assert ended.phase == "abandoned"
    assert (await leader.tasks.round(SECOND)).phase == "collecting"


async def test_a_closed_round_is_not_abandoned(harness: CoordinatorHarness) -> None:
    await harness.task()
    await play(harness)

    assert await refusal(abandon(harness)) is ProblemCode.CONFLICT
