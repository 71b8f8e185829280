"""Whoever comes before its window is answered from memory: no store, no slot, no count."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness, constant, report
from tests.unit.coordinator.listed import listed_rounds

from keyflock_server.coordinator.return_windows import ReturnWindows
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    EnrolRequest,
    Failure,
    FailureCause,
    Refusal,
    RefusalReason,
    ReturnWindow,
)
from keyflock_server.rounds.availability import hour_of
from keyflock_server.storage.errors import StorageUnavailable

pytestmark = pytest.mark.fault("D13")


class UnreachableRepository:
    """A repository of a store that cannot be reached."""

    def __getattr__(self, _name: str) -> Any:  # noqa: ANN401 - whatever the table has
        raise StorageUnavailable("The store was asked.")


def make_store_unreachable(harness: CoordinatorHarness) -> None:
    for table in ("devices", "rounds", "tasks", "populations", "arrivals"):
        setattr(harness.store, table, UnreachableRepository())


async def test_an_early_device_hears_the_same_again_with_what_is_left_of_its_window(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(eligibility="min_examples = 5")
    device = await harness.enrol()
    first = await harness.check_in(device, examples=1)
    make_store_unreachable(harness)
    harness.pass_time(20.0)

    again = await harness.check_in(device, examples=100)

    assert isinstance(first, Refusal)
    assert isinstance(again, Refusal)
    assert (again.reason, again.detail) == (first.reason, first.detail)
    assert again.return_window.min_s == first.return_window.min_s - 20.0
    assert again.return_window.max_s == first.return_window.max_s - 20.0


@pytest.mark.parametrize("tier", [1, 3])
async def test_a_device_that_was_not_eligible_is_judged_again_with_its_next_token(
    harness: CoordinatorHarness, tier: int
) -> None:
    await harness.task(eligibility="cohort = 'tier == 3'")
    before = await harness.enrol(tier=1)
    first = await harness.check_in(before)
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US", tier=tier)
    enrolled = await harness.coordinator.enrolments.enrol(request, before)
    after = replace(before, generation=enrolled.generation, tier=enrolled.tier)

    answer = await harness.check_in(after)

    assert isinstance(first, Refusal)
    assert first.reason is RefusalReason.NOT_ELIGIBLE
    assert isinstance(answer, Assignment if tier == 3 else Refusal)


async def test_a_new_token_ends_no_rest_after_work(harness: CoordinatorHarness) -> None:
    await harness.task()
    device = await harness.enrol()
    await harness.coordinator.reports.failure(
        await harness.assigned(device), Failure(cause=FailureCause.INTERRUPTED)
    )
    make_store_unreachable(harness)

    answer = await harness.check_in(replace(device, generation=1))

    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.detail) == (RefusalReason.TOO_SOON, "It was here just now.")


async def test_a_device_that_has_done_its_work_rests_until_its_window(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0")
    claims = [await harness.assigned(await harness.enrol()) for _ in range(3)]
    failed = await harness.enrol()
    claim = await harness.assigned(failed)
    await harness.coordinator.reports.failure(claim, Failure(cause=FailureCause.INTERRUPTED))
    make_store_unreachable(harness)

    answer = await harness.check_in(failed)

    assert len(claims) == 3
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.TOO_SOON


async def test_an_outstanding_assignment_is_repeated_however_early_its_device_comes(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    device = await harness.enrol()
    first = await harness.check_in(device)

    answers = [await harness.check_in(device) for _ in range(3)]

    assert isinstance(first, Assignment)
    assert {one.id for one in answers if isinstance(one, Assignment)} == {first.id}


async def test_another_process_repeats_an_assignment_to_a_device_that_it_told_to_wait(
    harness: CoordinatorHarness,
) -> None:
    here, there = harness.another_coordinator("a"), harness.another_coordinator("b")
    harness.coordinator = here
    await here.start()
    await harness.task(eligibility="min_examples = 5")
    await there.start()
    device = await harness.enrol()
    harness.coordinator = there
    told_to_wait = await harness.check_in(device, examples=1)
    harness.coordinator = here
    first = await harness.check_in(device)

    harness.coordinator = there
    await there.tick()
    again = await harness.check_in(device)

    assert isinstance(told_to_wait, Refusal)
    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    assert again.id == first.id
    await there.stop()


async def test_early_check_ins_are_not_counted_and_take_no_slot(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0", eligibility="min_examples = 5")
    device = await harness.enrol()
    for _ in range(50):
        await harness.check_in(device, examples=1)
    for _ in range(50):
        await harness.check_in(device, examples=100)
    harness.pass_time(70.0)
    await harness.coordinator.tick()

    (counted,) = await harness.store.arrivals.since(TaskName("t"), hour_of(harness.now.timestamp()) - 1)
    assert counted.check_ins == 1
    (open_round,) = await listed_rounds(harness.coordinator, TaskName("t"))
    assert open_round.assigned == 0


async def test_who_comes_a_little_early_comes_in_time(harness: CoordinatorHarness) -> None:
    await harness.task(eligibility="min_examples = 5")
    device = await harness.enrol()
    first = await harness.check_in(device, examples=1)
    assert isinstance(first, Refusal)

    harness.pass_time(first.return_window.min_s * 0.98 - 1.0)
    answer = await harness.check_in(device)

    assert isinstance(answer, Assignment)


async def test_an_operators_change_lets_everybody_come(harness: CoordinatorHarness) -> None:
    device = await harness.enrol()
    nothing = await harness.check_in(device)
    await harness.task()

    answer = await harness.check_in(device)

    assert isinstance(nothing, Refusal)
    assert nothing.return_window.min_s == 3_600.0
    assert isinstance(answer, Assignment)


async def test_a_report_that_is_counted_is_acknowledged_again_and_the_next_check_in_waits(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(
        round="goal = 4\nmin_flush_clients = 1\nunsafe_single_flush = true\nover_selection = 0.0"
    )
    device = await harness.enrol()
    claims = await harness.assigned(device)

    receipt = await harness.coordinator.reports.report(claims, report(constant(1.0)))
    answer = await harness.check_in(device)

    assert receipt.counted
    assert isinstance(answer, Refusal)
    assert answer.return_window == receipt.return_window


def test_what_is_remembered_is_bounded_and_the_oldest_are_forgotten_together(
    harness: CoordinatorHarness,
) -> None:
    windows = ReturnWindows(max_devices=2)
    refusal = Refusal(
        reason=RefusalReason.ROUND_FULL, return_window=ReturnWindow(min_s=60.0, max_s=90.0), detail=""
    )
    for name in ("a", "b", "a", "c", "d", "e"):
        windows.remember(DeviceId(name), refusal, harness.now)

    early = [name for name in "abcde" if windows.repeated_refusal(DeviceId(name), harness.now, 0) is not None]

    assert len(windows) == 3
    assert early == ["c", "d", "e"]
