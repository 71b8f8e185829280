"""Counts by the hour say who is eligible and when phones have time."""

import pytest

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.availability import (
    UNIFORM_HOURS,
    ActiveDevices,
    ArrivalCount,
    arrivals_per_s,
    counted_devices,
    eligible_share,
    hours_of_day,
)

TASK = TaskName("t")
DAY_S = 86_400.0


def count(hour: int, check_ins: int, eligible: int = 0) -> ArrivalCount:
    return ArrivalCount(TASK, hour, check_ins, eligible)


def test_before_the_first_check_in_all_are_eligible_and_all_hours_alike() -> None:
    assert eligible_share([], 0.0) == 1.0
    assert hours_of_day([], 0.0) == UNIFORM_HOURS


def test_the_share_is_of_the_last_day_and_the_first_check_ins_weigh_little() -> None:
    counts = [count(0, 1_000, 1_000), count(30, 90, 40)]

    assert eligible_share(counts, 31 * 3_600.0) == pytest.approx((40 + 10) / (90 + 10))


def test_what_arrives_now_is_counted_over_this_hour_and_the_last() -> None:
    counts = [count(8, 10**6, 10**6), count(9, 400, 90), count(10, 300, 45)]

    assert arrivals_per_s(counts, 10.5 * 3_600.0) == pytest.approx(135 / 5_400.0)
    assert arrivals_per_s([count(10, 49, 49)], 10.5 * 3_600.0) is None


def test_a_busy_night_shows_and_the_hour_that_runs_says_nothing() -> None:
    # Six days: 200 check-ins in the hour from midnight, 20 in every other.
    counts = [count(hour, 200 if hour % 24 == 0 else 20) for hour in range(6 * 24)]

    hours = hours_of_day([*counts, count(6 * 24, 10**6)], 6 * DAY_S)

    mean = (200 + 23 * 20) / 24
    assert hours[0] == 4.0
    assert hours[1] == pytest.approx((6 * 20 / mean + 1) / 7)


def test_an_hour_without_a_row_is_an_hour_without_a_check_in() -> None:
    hours = hours_of_day([count(0, 100), count(2, 100)], 3 * 3_600.0)

    assert hours[:3] == pytest.approx(((1.5 + 1) / 2, (0 + 1) / 2, (1.5 + 1) / 2))


@pytest.mark.fault("D12")
@pytest.mark.parametrize(
    ("proven", "unproven", "counted"),
    [
        (0, 0, 0),
        (0, 20, 20),
        (0, 2_000, 26),
        (30, 0, 30),
        (30, 5, 35),
        (30, 2_000, 60),
        (10**6, 10**5, 11 * 10**5),
    ],
)
def test_ghosts_count_up_to_a_cap_and_proven_devices_in_full(
    proven: int, unproven: int, counted: int
) -> None:
    assert counted_devices(ActiveDevices(proven, unproven), slots=13) == counted
