"""Return windows let cohorts fill and spread the check-ins."""

import pytest

from keyflock_server.rounds.pacing import (
    after_work,
    expected_arrivals,
    first_visit,
    is_crowd,
    is_large,
    meets,
    next_round_window,
    no_task_window,
    overload,
    rest_s,
    return_window,
    spread_s,
)
from keyflock_server.rounds.task import Pacing, RoundPolicy

POLICY = RoundPolicy(goal=100, over_selection=0.0, deadline_s=600.0)
PACING = Pacing(min_s=60.0, max_s=86_400.0)


def test_a_large_population_spreads_over_half_to_three_halves_of_its_revisit_time() -> None:
    window = return_window(POLICY, PACING, 1_000_000, 0.0)

    # 150 check-ins wanted in a selection window of 150 s: 1 a second, so 10,000 phones come back every
    # 10,000 s, and a million as the bound of a day allows: the window is moved, not squeezed.
    assert (window.min_s, window.max_s) == (28_800.0, 86_400.0)
    middle = return_window(POLICY, PACING, 10_000, 0.0)
    assert (middle.min_s, middle.max_s) == (5_000.0, 15_000.0)


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
    unloaded = return_window(POLICY, PACING, 10_000, 0.0)
    loaded = return_window(POLICY, PACING, 10_000, 0.0, load=1.0)

    assert (loaded.min_s, loaded.max_s) == (2 * unloaded.min_s, 2 * unloaded.max_s)


def test_a_phone_that_contributed_rests_for_its_separation() -> None:
    assert after_work(3_600.0, PACING).min_s == 3_600.0
    assert after_work(0.0, PACING).min_s == 60.0


def test_no_window_is_longer_than_the_protocol_can_say() -> None:
    assert after_work(31_536_000.0, PACING).max_s == 31_536_000.0
    assert return_window(POLICY, Pacing(min_s=60.0, max_s=3e7), 10**9, 0.0, load=9.0).max_s == 31_536_000.0


def test_a_small_population_is_expected_whole_and_a_large_one_in_part() -> None:
    assert expected_arrivals(POLICY, PACING, 50) == 50.0
    assert expected_arrivals(POLICY, PACING, 10_000) == pytest.approx(150.0)
    assert expected_arrivals(POLICY, PACING, 10_000, cycle_s=600.0) == pytest.approx(600.0)
    assert expected_arrivals(POLICY, PACING, 10_000, observed_per_s=2.0) == pytest.approx(300.0)
    assert expected_arrivals(POLICY, PACING, 50, present_devices=30) == 30.0


def test_in_a_busy_hour_phones_are_sent_further_away() -> None:
    hours = [1.0] * 24
    hours[10_000 // 3_600] = 2.0

    window = return_window(POLICY, PACING, 10_000, 0.0, hours=hours)

    assert (window.min_s, window.max_s) == (10_000.0, 30_000.0)


def test_the_next_rounds_sample_comes_as_it_opens() -> None:
    large = next_round_window(POLICY, PACING, 10_000, 0.0, opens_in_s=300.0)
    small = next_round_window(POLICY, PACING, 50, 0.0, opens_in_s=300.0)
    late = next_round_window(POLICY, PACING, 10_000, 0.0, opens_in_s=-5.0)

    assert (large.min_s, large.max_s) == (300.0, 337.5)
    assert (small.min_s, small.max_s) == (300.0, 315.0)
    assert (late.min_s, late.max_s) == (60.0, 97.5)


def test_a_crowd_that_enrols_is_spread_as_far_as_it_is_large() -> None:
    assert first_visit(spread_s(POLICY, PACING, 50)).max_s == 1.0
    assert first_visit(spread_s(POLICY, PACING, 10_000)).max_s == 10_000.0
    assert first_visit(spread_s(POLICY, PACING, 10**7)).max_s == 86_400.0


def test_load_counts_from_half_the_places_and_half_a_second_of_lag_on() -> None:
    assert overload(50, 100, 0.5) == 0.0
    assert overload(100, 100, 0.0) == 1.0
    assert overload(0, 100, 1.0) == 1.0
    assert overload(0, 100, 60.0) == 9.0


@pytest.mark.fault("D12")
def test_ghosts_leave_windows_alone_and_a_crowd_is_spread_however_few_count() -> None:
    alone = return_window(POLICY, PACING, 50, 0.0, seen_devices=50)
    among_ghosts = return_window(POLICY, PACING, 50, 0.0, seen_devices=2_050)
    in_a_crowd = return_window(POLICY, PACING, 50, 0.0, seen_devices=1_000_000)

    assert among_ghosts == alone
    # No more than 100 a second: a million come every 10,000 s.
    assert (in_a_crowd.min_s, in_a_crowd.max_s) == (5_000.0, 15_000.0)
    assert spread_s(POLICY, PACING, 50, 2_050) == 0.0
    assert spread_s(POLICY, PACING, 50, 1_000_000) == 10_000.0


def test_a_crowd_begins_beyond_a_hundred_check_ins_a_second() -> None:
    # 6,000 phones that come every 60 s are a hundred a second.
    assert not is_crowd(PACING, 6_000.0)
    assert is_crowd(PACING, 6_000.1)


def test_where_there_is_no_task_a_phone_asks_again_within_one_to_four_hours() -> None:
    assert (no_task_window().min_s, no_task_window().max_s) == (3_600.0, 14_400.0)


def test_the_spread_of_a_finished_cohort_is_kept_within_the_operators_bounds() -> None:
    windows = [after_work(100.0, PACING, spread_s=spread) for spread in (0.0, 60.0, 500.0, 1e6)]

    assert [window.min_s for window in windows] == [100.0] * 4
    assert [window.max_s - window.min_s for window in windows] == [60.0, 60.0, 500.0, 86_400.0]


@pytest.mark.fault("F11")
def test_a_waiting_phone_rests_a_quarter_of_the_time_before_and_behind_it() -> None:
    assert rest_s(opens_in_s=200.0, open_for_s=200.0) == 50.0
    assert rest_s(opens_in_s=200.0, open_for_s=8.0) == 2.0
    assert rest_s(opens_in_s=8.0, open_for_s=200.0) == 2.0
    assert rest_s(opens_in_s=-1.0, open_for_s=200.0) == 0.0


@pytest.mark.fault("F11")
def test_few_phones_meet_however_long_a_round_selects() -> None:
    patient = RoundPolicy(goal=10, deadline_s=600.0, selection_s=600.0)

    # 13 slots; four phones for each.
    assert meets(patient, PACING, 51)
    assert is_large(patient, 52)
    assert not meets(patient, PACING, 52)
    # Those of a crowd are spread, however few count.
    assert not meets(patient, PACING, 51, seen_devices=1_000_000)


def test_phones_that_return_once_in_a_deadline_fill_a_cohort_by_chance() -> None:
    policy = RoundPolicy(goal=10, deadline_s=600.0, selection_s=150.0)

    # 13 slots want 1.5 check-ins each within 150 s: 78 phones that return every 600 s.
    assert is_large(policy, 78)
    assert not is_large(policy, 77)
