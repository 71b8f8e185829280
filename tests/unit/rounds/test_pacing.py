"""Phones are told to return so that cohorts fill and nobody stampedes."""

import pytest

from keyflock_server.rounds.pacing import after_work, expected_arrivals, return_window
from keyflock_server.rounds.task import Pacing, RoundPolicy

POLICY = RoundPolicy(goal=100, over_selection=0.0, deadline_s=600.0)
PACING = Pacing(min_s=60.0, max_s=86_400.0)


def test_a_large_population_spreads_over_half_to_three_halves_of_its_revisit_time() -> None:
    window = return_window(POLICY, PACING, 1_000_000, 0.0)

    # 150 check-ins wanted in 600 s: 0.25 a second, so a million phones come back every 4 million seconds,
    # which the bound cuts to a day.
    assert (window.min_s, window.max_s) == (86_400.0, 86_400.0)
    middle = return_window(POLICY, PACING, 10_000, 0.0)
    assert (middle.min_s, middle.max_s) == (20_000.0, 60_000.0)


@pytest.mark.parametrize("now_s", [0.0, 17.0, 59.0])
def test_a_small_population_meets_at_the_same_slot(now_s: float) -> None:
    window = return_window(POLICY, PACING, 50, now_s)

    meeting_s = now_s + window.min_s
    assert window.min_s >= PACING.min_s or meeting_s % 60.0 == 0.0
    assert window.min_s <= window.max_s


def test_overload_widens_the_window() -> None:
    calm = return_window(POLICY, PACING, 10_000, 0.0)
    loaded = return_window(POLICY, PACING, 10_000, 0.0, load=1.0)

    assert (loaded.min_s, loaded.max_s) == (2 * calm.min_s, 2 * calm.max_s)


def test_a_phone_that_contributed_rests_for_its_separation() -> None:
    assert after_work(3_600.0, PACING).min_s == 3_600.0
    assert after_work(0.0, PACING).min_s == 60.0


def test_a_small_population_is_expected_whole_and_a_large_one_in_part() -> None:
    assert expected_arrivals(POLICY, PACING, 50) == 50.0
    assert expected_arrivals(POLICY, PACING, 10_000) == pytest.approx(10_000 * 150 / 40_000)
