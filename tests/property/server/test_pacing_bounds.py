"""Whatever is known of a population, windows keep their bounds; traffic goes by its weights."""

from collections import Counter
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.protocol.identifiers import DeviceId, TaskName
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.rounds.pacing import (
    after_work,
    expected_arrivals,
    first_visit,
    next_round_window,
    overload,
    return_window,
)
from keyflock_server.rounds.selection import task_order
from keyflock_server.rounds.task import Pacing, RoundPolicy

POLICIES = st.builds(
    RoundPolicy,
    goal=st.integers(1, 10_000),
    over_selection=st.floats(0.0, 2.0),
    deadline_s=st.floats(1.0, 86_400.0),
)
PACINGS = st.tuples(st.floats(0.1, 3_600.0), st.floats(1.0, 100.0)).map(
    lambda pair: Pacing(min_s=pair[0], max_s=pair[0] * pair[1])
)
DEVICES = st.floats(0.0, 1e9)
INSTANTS = st.floats(1.7e9, 1.9e9)
LOADS = st.floats(0.0, 9.0)
HOURS = st.lists(st.floats(0.25, 4.0), min_size=24, max_size=24)
LONGEST_S = 31_536_000.0
KEY = b"k" * 32


def assert_within(window: ReturnWindow, pacing: Pacing, load: float) -> None:
    low, high = (min(bound * (1.0 + load), LONGEST_S) for bound in (pacing.min_s, pacing.max_s))
    assert low <= window.min_s <= window.max_s <= high


@given(POLICIES, PACINGS, DEVICES, INSTANTS, LOADS, HOURS)
def test_a_window_keeps_the_operators_bounds(
    policy: RoundPolicy, pacing: Pacing, devices: float, now_s: float, load: float, hours: list[float]
) -> None:
    assert_within(return_window(policy, pacing, devices, now_s, load=load, hours=hours), pacing, load)


@given(POLICIES, PACINGS, DEVICES, INSTANTS, LOADS, st.floats(-1e6, 1e6))
def test_a_window_that_aims_at_the_next_round_keeps_them_too(
    policy: RoundPolicy, pacing: Pacing, devices: float, now_s: float, load: float, opens_in_s: float
) -> None:
    window = next_round_window(policy, pacing, devices, now_s, opens_in_s=opens_in_s, load=load)

    assert_within(window, pacing, load)


@given(POLICIES, PACINGS, DEVICES, st.floats(0.0, 1e6), st.floats(0.25, 4.0))
def test_never_more_are_expected_than_there_are(
    policy: RoundPolicy, pacing: Pacing, devices: float, cycle_s: float, availability: float
) -> None:
    expected = expected_arrivals(policy, pacing, devices, cycle_s=cycle_s, availability=availability)

    assert 0.0 <= expected <= devices


@given(PACINGS, st.floats(0.0, LONGEST_S), st.floats(0.0, 1e9))
def test_nobody_is_called_back_before_the_separation_has_passed(
    pacing: Pacing, separation_s: float, spread_s: float
) -> None:
    window = after_work(separation_s, pacing, spread_s=spread_s)

    assert separation_s <= window.min_s <= window.max_s <= LONGEST_S
    assert first_visit(spread_s).max_s <= LONGEST_S


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.floats(0.0, 1e3))
def test_load_is_none_up_to_half_the_capacity_and_bounded_beyond(
    in_flight: int, capacity: int, lag_s: float
) -> None:
    load = overload(in_flight, capacity, lag_s)

    assert 0.0 <= load <= 9.0
    if 2 * in_flight <= capacity and lag_s <= 0.5:
        assert load == 0.0


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 2.0, 7.0)])
def test_first_claims_are_shared_by_the_weights(weights: tuple[float, ...]) -> None:
    traffic = {TaskName(f"task-{number}"): weight for number, weight in enumerate(weights)}
    count = 20_000

    first = Counter(task_order(KEY, DeviceId(f"d{number}"), traffic, 0.0)[0] for number in range(count))

    # Five standard deviations of a binomial: a false alarm once in 1.7 million keys (the key is fixed).
    for task, weight in traffic.items():
        share = weight / sum(weights)
        assert abs(first[task] - count * share) < 5 * sqrt(count * share * (1 - share))


def test_a_task_that_comes_moves_devices_to_itself_only() -> None:
    two = {TaskName("a"): 1.0, TaskName("b"): 1.0}
    three = {**two, TaskName("c"): 1.0}

    for number in range(1_000):
        device = DeviceId(f"d{number}")
        before, after = task_order(KEY, device, two, 0.0), task_order(KEY, device, three, 0.0)
        assert [task for task in after if task != "c"] == before


def test_the_order_holds_for_an_hour_and_is_drawn_anew_then() -> None:
    traffic = {TaskName("a"): 1.0, TaskName("b"): 1.0}
    devices = [DeviceId(f"d{number}") for number in range(200)]

    def orders(now_s: float) -> list[list[TaskName]]:
        return [task_order(KEY, device, traffic, now_s) for device in devices]

    assert orders(0.0) == orders(3_599.0)
    assert orders(0.0) != orders(3_600.0)
