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


@pytest.mark.parametrize("now_s", [0.0, 1.0, 14.9, 15.0])
def test_whoever_comes_while_a_slot_is_open_is_sent_to_the_next_one(now_s: float) -> None:
    window = return_window(POLICY, PACING, 50, now_s)

    # Slots of 75 s are open for 15 s: from their last moment the next is 60 s away, as min_s wants it.
    assert (now_s + window.min_s, now_s + window.max_s) == (75.0, 90.0)


@pytest.mark.parametrize("now_s", [15.1, 40.0, 75.0])
def test_whoever_comes_between_two_slots_meets_those_who_come_at_the_next(now_s: float) -> None:
    window = return_window(POLICY, PACING, 50, now_s)

    assert (now_s + window.min_s, now_s + window.max_s) == (150.0, 165.0)


def test_the_bounds_are_kept_even_where_a_slot_is_missed() -> None:
    window = return_window(POLICY, Pacing(min_s=60.0, max_s=70.0), 50, 40.0)

    assert (window.min_s, window.max_s) == (70.0, 70.0)


def test_overload_widens_the_window() -> None:
    calm = return_window(POLICY, PACING, 10_000, 0.0)
    loaded = return_window(POLICY, PACING, 10_000, 0.0, load=1.0)

    assert (loaded.min_s, loaded.max_s) == (2 * calm.min_s, 2 * calm.max_s)


def test_a_phone_that_contributed_rests_for_its_separation() -> None:
    assert after_work(3_600.0, PACING).min_s == 3_600.0
    assert after_work(0.0, PACING).min_s == 60.0


def test_no_window_is_longer_than_the_protocol_can_say() -> None:
    assert after_work(31_536_000.0, PACING).max_s == 31_536_000.0
    assert return_window(POLICY, Pacing(min_s=60.0, max_s=3e7), 10**9, 0.0, load=9.0).max_s == 31_536_000.0


def test_a_small_population_is_expected_whole_and_a_large_one_in_part() -> None:
    assert expected_arrivals(POLICY, PACING, 50) == 50.0
    assert expected_arrivals(POLICY, PACING, 10_000) == pytest.approx(10_000 * 150 / 40_000)
