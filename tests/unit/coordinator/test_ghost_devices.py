"""Devices that enrol and never work: they steer nobody's windows, and they are gone in days."""

from datetime import timedelta

import pytest
from tests.unit.coordinator.town import POPULATION, Town

from keyflock_server.coordinator.pace import Pace
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import EnrolRequest, Refusal, ReturnWindow
from keyflock_server.rounds.availability import hour_of

pytestmark = pytest.mark.fault("D12")

TASK = TaskName("t")
#: The window of whoever finds a full round, and would be long if many devices were counted.
ROUND = "goal = 10\ndeadline_s = 600.0"


async def window_of(town: Town, device: DeviceIdentity) -> ReturnWindow:
    """When the device is told to come again, whom no round can use."""
    answer = await town.check_in(device, examples=0)
    assert isinstance(answer, Refusal)
    return answer.return_window


async def at_a_rendezvous(town: Town) -> None:
    """Forward to an instant at which windows are read anew, and no rendezvous is open."""
    town.pass_time(75.0 * 8)
    await town.coordinator.tick()


@pytest.mark.parametrize("come_back", [False, True])
async def test_two_thousand_ghosts_leave_an_honest_window_as_it_is(town: Town, *, come_back: bool) -> None:
    await town.task(round=ROUND)
    honest = [await town.enrol() for _ in range(30)]
    for device in honest:
        await town.check_in(device)
    await at_a_rendezvous(town)
    before = await window_of(town, honest[0])

    for _ in range(2_000):
        ghost = await town.enrol()
        if come_back:
            await town.check_in(ghost, examples=0)
    await at_a_rendezvous(town)
    after = await window_of(town, honest[0])

    assert after == before
    assert after.max_s <= 150.0


async def test_ghosts_at_most_double_what_proven_devices_have_shown(town: Town) -> None:
    await town.task(round="goal = 4\nover_selection = 0.0", pacing="min_s = 10.0\nmax_s = 86400.0")
    honest = [await town.enrol_proven() for _ in range(200)]
    before = await window_of(town, honest[0])

    for _ in range(2_000):
        await town.check_in(await town.enrol())
    await at_a_rendezvous(town)
    after = await window_of(town, honest[1])

    # T = 200 * 150 / (4 * 1.5) = 5,000 s; with as many unproven devices again, 10,000 s.
    assert (before.min_s, before.max_s) == (2_500.0, 7_500.0)
    assert after.max_s <= 2 * before.max_s


async def test_a_new_population_counts_its_devices_before_any_has_reported(town: Town) -> None:
    await town.task(round=ROUND)
    for _ in range(20):
        await town.check_in(await town.enrol())
    desk, pace = town.coordinator._desks[TASK], Pace(town.coordinator._world)

    await pace.look(desk)

    assert pace._eligible_devices(desk) == 20.0


async def test_the_first_check_in_is_seen_also_in_the_instant_of_enrolment(town: Town) -> None:
    await town.task()
    only_enrolled, came = await town.enrol(), await town.enrol()
    await town.check_in(came)

    day = await town.store.devices.count_active(POPULATION, town.now - timedelta(days=1))

    assert day.unproven == 1
    assert only_enrolled.device != came.device


async def test_check_ins_of_ghosts_are_counted_up_to_a_cap_beside_those_of_proven_devices(
    town: Town,
) -> None:
    await town.task(round=ROUND)
    for _ in range(40):
        await town.check_in(await town.enrol_proven())
    for _ in range(500):
        await town.check_in(await town.enrol(), examples=0)
    town.pass_time(61.0)
    await town.check_in(await town.enrol_proven())

    (counted,) = await town.store.arrivals.since(TASK, hour_of(town.now.timestamp()))
    assert (counted.check_ins, counted.eligible) == (80, 40)


async def test_ghosts_are_deleted_after_a_week_without_an_operator(town: Town) -> None:
    ghosts = [await town.enrol() for _ in range(2_500)]
    proven = await town.enrol_proven()
    town.pass_time(6.9 * 86_400.0)
    await town.coordinator.tick()
    before = await town.store.devices.count(POPULATION)
    fresh = await town.enrol()

    town.pass_time(0.2 * 86_400.0)
    for _ in range(3):
        await town.coordinator.tick()

    assert before == len(ghosts) + 1
    assert await town.store.devices.count(POPULATION) == 2
    assert await town.store.devices.get(proven.device) is not None
    assert await town.store.devices.get(fresh.device) is not None


async def test_a_phone_that_refreshes_its_token_is_not_deleted_though_it_never_trains(town: Town) -> None:
    device = await town.enrol()
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US")

    for _ in range(10):
        town.pass_time(86_400.0)
        renewed = await town.coordinator.enrol(request, device)
        device = DeviceIdentity(renewed.device, renewed.population, renewed.generation)
        await town.coordinator.tick()

    assert await town.store.devices.get(device.device) is not None
