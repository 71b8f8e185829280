"""Whoever comes before its window is answered from memory: no store, no slot, no count."""

from typing import Any

import pytest
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.coordinator.return_windows import ReturnWindows
from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    Failure,
    FailureCause,
    Refusal,
    RefusalReason,
    ReturnWindow,
)
from keyflock_server.rounds.availability import hour_of
from keyflock_server.storage.door import StorageUnavailable

pytestmark = pytest.mark.fault("D13")


class Away:
    """A table of a store that is not there."""

    def __getattr__(self, _name: str) -> Any:  # noqa: ANN401 - whatever the table has
        raise StorageUnavailable("The store was asked.")


def take_the_store_away(town: Town) -> None:
    for table in ("devices", "rounds", "tasks", "populations", "arrivals"):
        setattr(town.store, table, Away())


async def test_an_early_device_hears_the_same_again_with_what_is_left_of_its_window(town: Town) -> None:
    await town.task(eligibility="min_examples = 5")
    device = await town.enrol()
    first = await town.check_in(device, examples=1)
    take_the_store_away(town)
    town.pass_time(20.0)

    again = await town.check_in(device, examples=100)

    assert isinstance(first, Refusal)
    assert isinstance(again, Refusal)
    assert (again.reason, again.detail) == (first.reason, first.detail)
    assert again.return_window.min_s == first.return_window.min_s - 20.0
    assert again.return_window.max_s == first.return_window.max_s - 20.0


async def test_a_device_that_has_done_its_work_rests_until_its_window(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0")
    claims = [await town.assigned(await town.enrol()) for _ in range(3)]
    failed = await town.enrol()
    claim = await town.assigned(failed)
    await town.coordinator.failure(claim, Failure(cause=FailureCause.INTERRUPTED))
    take_the_store_away(town)

    answer = await town.check_in(failed)

    assert len(claims) == 3
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.TOO_SOON


async def test_an_outstanding_assignment_is_repeated_however_early_its_device_comes(town: Town) -> None:
    await town.task()
    device = await town.enrol()
    first = await town.check_in(device)

    answers = [await town.check_in(device) for _ in range(3)]

    assert isinstance(first, Assignment)
    assert {one.id for one in answers if isinstance(one, Assignment)} == {first.id}


async def test_another_process_repeats_an_assignment_to_a_device_that_it_told_to_wait(town: Town) -> None:
    here, there = town.another_coordinator("a"), town.another_coordinator("b")
    town.coordinator = here
    await here.start()
    await town.task(eligibility="min_examples = 5")
    await there.start()
    device = await town.enrol()
    town.coordinator = there
    told_to_wait = await town.check_in(device, examples=1)
    town.coordinator = here
    first = await town.check_in(device)

    town.coordinator = there
    again = await town.check_in(device)

    assert isinstance(told_to_wait, Refusal)
    assert isinstance(first, Assignment)
    assert isinstance(again, Assignment)
    assert again.id == first.id
    await there.stop()


async def test_early_check_ins_are_not_counted_and_take_no_slot(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0", eligibility="min_examples = 5")
    device = await town.enrol()
    for _ in range(50):
        await town.check_in(device, examples=1)
    for _ in range(50):
        await town.check_in(device, examples=100)
    town.pass_time(70.0)
    await town.check_in(await town.enrol(), examples=1)

    (counted,) = await town.store.arrivals.since(TaskName("t"), hour_of(town.now.timestamp()) - 1)
    assert counted.check_ins == 1
    (open_round,) = await town.coordinator.rounds(TaskName("t"))
    assert open_round.assigned == 0


async def test_who_comes_a_little_early_comes_in_time(town: Town) -> None:
    await town.task(eligibility="min_examples = 5")
    device = await town.enrol()
    first = await town.check_in(device, examples=1)
    assert isinstance(first, Refusal)

    town.pass_time(first.return_window.min_s * 0.98 - 1.0)
    answer = await town.check_in(device)

    assert isinstance(answer, Assignment)


async def test_an_operators_change_lets_everybody_come(town: Town) -> None:
    device = await town.enrol()
    nothing = await town.check_in(device)
    await town.task()

    answer = await town.check_in(device)

    assert isinstance(nothing, Refusal)
    assert nothing.return_window.min_s == 3_600.0
    assert isinstance(answer, Assignment)


async def test_a_report_that_is_counted_is_acknowledged_again_and_the_next_check_in_waits(
    town: Town,
) -> None:
    await town.task(round="goal = 4\nmin_flush_clients = 1\nunsafe_single_flush = true\nover_selection = 0.0")
    device = await town.enrol()
    claims = await town.assigned(device)

    receipt = await town.coordinator.report(claims, report(constant(1.0)))
    answer = await town.check_in(device)

    assert receipt.counted
    assert isinstance(answer, Refusal)
    assert answer.return_window == receipt.return_window


def test_what_is_remembered_is_bounded_and_the_oldest_is_forgotten_first(town: Town) -> None:
    windows = ReturnWindows(max_devices=3)
    refusal = Refusal(
        reason=RefusalReason.ROUND_FULL, return_window=ReturnWindow(min_s=60.0, max_s=90.0), detail=""
    )
    for name in ("a", "b", "c", "a", "d"):
        windows.tell(DeviceId(name), refusal, town.now)

    early = [name for name in "abcd" if windows.early(DeviceId(name), town.now) is not None]

    assert len(windows) == 3
    assert early == ["a", "c", "d"]
