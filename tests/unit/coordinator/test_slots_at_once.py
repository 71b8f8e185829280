"""Many phones ask for the slots of one round at once: one transaction gives them out, and none twice."""

import asyncio
from collections.abc import Sequence

import pytest
from tests.unit.coordinator.harness import CoordinatorHarness
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.protocol.messages import Assignment, Failure, FailureCause, Refusal, RefusalReason
from keyflock_server.storage.errors import StorageUnavailable
from keyflock_server.storage.interfaces.group_writer import Operation, OperationOutcome


@pytest.fixture
async def harness() -> CoordinatorHarness:
    harness = CoordinatorHarness()
    await harness.create_population()
    return harness


def record_groups(harness: CoordinatorHarness) -> list[int]:
    """Return a list that the sizes of the groups are added to as they are committed."""
    sizes: list[int] = []
    commit = harness.store.group_writer.commit

    async def recorded(operations: Sequence[Operation]) -> list[OperationOutcome]:
        sizes.append(len(operations))
        for _ in range(100):  # a transaction takes a while, in which the other phones come as far as they can
            await asyncio.sleep(0)
        return await commit(operations)

    harness.store.group_writer.commit = recorded  # type: ignore[method-assign]  # the fake itself is at once
    return sizes


async def test_phones_that_come_at_once_share_few_transactions_and_no_slot(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0")
    phones = [await harness.enrol() for _ in range(20)]
    sizes = record_groups(harness)

    answers = await asyncio.gather(*(harness.check_in(phone) for phone in phones))

    given = [one for one in answers if isinstance(one, Assignment)]
    refused = {one.reason for one in answers if isinstance(one, Refusal)}
    (current,) = await listed_rounds(harness.coordinator, given[0].task)
    assert len(given) == len({one.token for one in given}) == current.assigned == 8
    assert refused <= {RefusalReason.ROUND_FULL, RefusalReason.NOT_SAMPLED}
    assert sum(sizes) == 8  # who finds all slots asked for does not ask
    assert len(sizes) <= 2


async def test_a_phone_that_asks_twice_at_once_gets_one_assignment(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0")
    phone = await harness.enrol()
    record_groups(harness)

    first, second = await asyncio.gather(harness.check_in(phone), harness.check_in(phone))

    assert isinstance(first, Assignment)
    assert isinstance(second, Assignment)
    assert first.token == second.token
    (current,) = await listed_rounds(harness.coordinator, first.task)
    assert current.assigned == 1


async def test_slots_that_could_not_be_given_out_are_free_again(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0")
    phones = [await harness.enrol() for _ in range(8)]

    async def away(_: Sequence[Operation]) -> list[OperationOutcome]:
        raise StorageUnavailable("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(harness.store.group_writer, "commit", away)
        failed = await asyncio.gather(*(harness.check_in(phone) for phone in phones), return_exceptions=True)
    answers = await asyncio.gather(*(harness.check_in(phone) for phone in phones))

    assert [type(one) for one in failed] == [StorageUnavailable] * 8
    assert all(isinstance(one, Assignment) for one in answers)


async def test_phones_whose_slots_were_not_answered_for_get_them_when_they_ask_again(
    harness: CoordinatorHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0")
    phones = [await harness.enrol() for _ in range(8)]
    commit = harness.store.group_writer.commit

    async def lost(operations: Sequence[Operation]) -> list[OperationOutcome]:
        await commit(operations)
        raise StorageUnavailable("The connection was lost after the commit.")

    with monkeypatch.context() as broken:
        broken.setattr(harness.store.group_writer, "commit", lost)
        failed = await asyncio.gather(*(harness.check_in(phone) for phone in phones), return_exceptions=True)
    await harness.coordinator.tick()  # memory knows now that no slot is left
    answers = await asyncio.gather(*(harness.check_in(phone) for phone in phones))

    assert [type(one) for one in failed] == [StorageUnavailable] * 8
    given = [one for one in answers if isinstance(one, Assignment)]
    assert len({one.token for one in given}) == 8
    assert isinstance(await harness.check_in(await harness.enrol()), Refusal)


async def test_slots_that_are_given_back_at_once_are_all_free_again(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8\nover_selection = 0.0")
    claims = [await harness.assigned(await harness.enrol()) for _ in range(8)]
    sizes = record_groups(harness)

    reports = harness.coordinator.reports
    await asyncio.gather(
        *(reports.failure(one, Failure(cause=FailureCause.INTERRUPTED)) for one in claims),
        reports.failure(claims[0], Failure(cause=FailureCause.INTERRUPTED)),
    )
    again = await harness.check_in(await harness.enrol())

    (current,) = await listed_rounds(harness.coordinator, claims[0].task)
    assert (current.assigned, current.failed) == (9, 8)
    assert sizes[:2] in ([1, 7], [8, 1])
    assert isinstance(again, Assignment)
