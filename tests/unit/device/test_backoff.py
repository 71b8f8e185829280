"""How long a device waits, with a generator that always draws one end of the range."""

import random

import pytest

from keyflock_client_sim.device.backoff import MAX_PENDING_S, RetryPolicy, draw_within, pause_s
from keyflock_server.protocol.messages import ReturnWindow


class Earliest(random.Random):
    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002  # as the base class names it
        return a


class Latest(random.Random):
    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002  # as the base class names it
        return b


@pytest.mark.parametrize(
    ("failures", "earliest_s", "latest_s"),
    [
        (1, 1.0, 2.0),
        (2, 2.0, 4.0),
        (3, 4.0, 8.0),
        (9, 256.0, 512.0),
        (10, 300.0, 600.0),
        (5_000, 300.0, 600.0),
    ],
)
def test_a_pause_is_in_the_upper_half_of_a_ceiling_that_doubles(
    failures: int, earliest_s: float, latest_s: float
) -> None:
    assert pause_s(RetryPolicy(), failures, Earliest()) == earliest_s
    assert pause_s(RetryPolicy(), failures, Latest()) == latest_s


@pytest.mark.parametrize(("failures", "latest_s"), [(30, 2.0**29), (31, 2.0**30), (32, 2.0**30)])
def test_a_ceiling_doubles_thirty_times_at_most(failures: int, latest_s: float) -> None:
    assert pause_s(RetryPolicy(first_pause_s=1.0, max_pause_s=1e12), failures, Latest()) == latest_s


def test_a_draw_covers_the_window_and_one_turned_round_is_its_beginning() -> None:
    window = ReturnWindow(min_s=5.0, max_s=7.0)

    assert (draw_within(window, Earliest()), draw_within(window, Latest())) == (5.0, 7.0)
    assert draw_within(ReturnWindow(min_s=5.0, max_s=3.0), Latest()) == 5.0


def test_without_another_policy_a_device_waits_so_long() -> None:
    assert RetryPolicy() == RetryPolicy(
        first_pause_s=2.0,
        max_pause_s=600.0,
        permanent_failure_delay_s=86_400.0,
        default_return_window=ReturnWindow(min_s=60.0, max_s=600.0),
        refresh_margin_s=300.0,
        max_damaged_downloads=3,
    )
    assert MAX_PENDING_S == 3_600.0
