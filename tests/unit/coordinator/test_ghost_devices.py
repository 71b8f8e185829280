"""Devices that enrol and never work: they steer nobody's windows, and they are gone in days."""

from datetime import timedelta

import pytest
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.coordinator.pace_steering import PaceSteering
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import EnrolRequest, Refusal, ReturnWindow
from keyflock_server.rounds.availability import hour_of

pytestmark = pytest.mark.fault("D12")

TASK = TaskName("t")
#: Devices find a full round; their window would be long if many devices were counted.
ROUND = "goal = 10\ndeadline_s = 600.0"


async def window_of(harness: CoordinatorHarness, device: DeviceIdentity) -> ReturnWindow:
    """Return the return window of a device that no round can use."""
    answer = await harness.check_in(device, examples=0)
    assert isinstance(answer, Refusal)
    return answer.return_window


async def between_meetings(harness: CoordinatorHarness) -> None:
    """Move the clock to an instant at which statistics are read anew and no meeting is open."""
    harness.pass_time(75.0 * 8)
    await harness.coordinator.tick()


@pytest.mark.parametrize("come_back", [False, True])
async def test_two_thousand_ghosts_leave_an_honest_window_as_it_is(
    harness: CoordinatorHarness, *, come_back: bool
) -> None:
    await harness.task(round=ROUND)
    honest = [await harness.enrol() for _ in range(30)]
    for device in honest:
        await harness.check_in(device)
    await between_meetings(harness)
    before = await window_of(harness, honest[0])

    for _ in range(2_000):
        ghost = await harness.enrol()
        if come_back:
            await harness.check_in(ghost, examples=0)
    await between_meetings(harness)
    after = await window_of(harness, honest[0])

    assert after == before
    assert after.max_s <= 150.0


async def test_ghosts_at_most_double_what_proven_devices_have_shown(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 4\nover_selection = 0.0", pacing="min_s = 10.0\nmax_s = 86400.0")
    honest = [await harness.enrol_proven() for _ in range(200)]
    harness.pass_time(60.0)
    await harness.coordinator.tick()
    before = await window_of(harness, honest[0])

    for _ in range(2_000):
        await harness.check_in(await harness.enrol())
    await between_meetings(harness)
    await harness.coordinator.tick()
    after = await window_of(harness, honest[1])

    # T = 200 * 150 / (4 * 1.5) = 5,000 s; with as many unproven devices again, 10,000 s.
    assert (before.min_s, before.max_s) == (2_500.0, 7_500.0)
    assert after.max_s <= 2 * before.max_s


async def test_a_new_population_counts_its_devices_before_any_has_reported(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=ROUND)
    for _ in range(20):
        await harness.check_in(await harness.enrol())
    await harness.coordinator.tick()
    state, pace = harness.coordinator.registry._states[TASK], PaceSteering(harness.coordinator._deps)

    await pace.refresh_stats(state)

    assert pace.at(state, harness.now, harness.now.timestamp(), 0.0).eligible_devices == 20.0


async def test_the_first_check_in_is_seen_also_in_the_instant_of_enrolment(
    harness: CoordinatorHarness,
) -> None:
    await harness.task()
    only_enrolled, came = await harness.enrol(), await harness.enrol()
    await harness.check_in(came)
    await harness.coordinator.tick()

    day = await harness.store.devices.count_active(POPULATION, harness.now - timedelta(days=1))

    assert day.unproven == 1
    assert only_enrolled.device != came.device


async def test_check_ins_of_ghosts_are_counted_up_to_a_cap_beside_those_of_proven_devices(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round=ROUND)
    for _ in range(40):
        await harness.check_in(await harness.enrol_proven())
    for _ in range(500):
        await harness.check_in(await harness.enrol(), examples=0)
    harness.pass_time(61.0)
    await harness.coordinator.tick()

    (counted,) = await harness.store.arrivals.since(TASK, hour_of(harness.now.timestamp()))
    assert (counted.check_ins, counted.eligible) == (80, 40)


async def test_ghosts_are_deleted_after_a_week_without_an_operator(harness: CoordinatorHarness) -> None:
    ghosts = [await harness.enrol() for _ in range(2_500)]
    proven = await harness.enrol_proven()
    harness.pass_time(6.9 * 86_400.0)
    await harness.coordinator.tick()
    before = await harness.store.devices.count(POPULATION)
    fresh = await harness.enrol()

    harness.pass_time(0.2 * 86_400.0)
    for _ in range(3):
        await harness.coordinator.tick()

    assert before == len(ghosts) + 1
    assert await harness.store.devices.count(POPULATION) == 2
    assert await harness.store.devices.get(proven.device) is not None
    assert await harness.store.devices.get(fresh.device) is not None


async def test_a_phone_that_refreshes_its_token_is_not_deleted_though_it_never_trains(
    harness: CoordinatorHarness,
) -> None:
    device = await harness.enrol()
    request = EnrolRequest(protocol=1, population=POPULATION, app_build=5, locale="en-US")

    for _ in range(10):
        harness.pass_time(86_400.0)
        renewed = await harness.coordinator.enrolments.enrol(request, device)
        device = DeviceIdentity(renewed.device, renewed.population, renewed.generation)
        await harness.coordinator.tick()

    assert await harness.store.devices.get(device.device) is not None
