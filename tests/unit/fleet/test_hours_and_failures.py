"""When phones are idle, and what befalls them."""

import random
from dataclasses import replace

import pytest

from keyflock_client_sim.fleet.availability import DAY_S, next_idle_s
from keyflock_client_sim.fleet.failure_model import CallLoss, draw_call_loss, draw_drop_out
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.fleet.traits import Traits, draw_traits

HOUR_S = 3_600.0
DRAWS = 20_000
#: Standard errors that a share may be off: one in a million runs is wrongly called wrong.
Z = 4.9


def _traits(**changes: float) -> Traits:
    return replace(draw_traits(PROFILES["ideal"], random.Random(1)), **changes)  # type: ignore[arg-type]  # floats only


@pytest.mark.parametrize(
    ("at_h", "next_h"),
    [
        (0.0, 0.0),  # the stretch of the day before goes on over midnight
        (5.5, 5.5),
        (6.0, 23.0),  # its end is no part of it
        (12.0, 23.0),
        (23.0, 23.0),
        (24.0 + 3.0, 24.0 + 3.0),
        (24.0 + 7.0, 24.0 + 23.0),
    ],
)
def test_a_night_phone_is_idle_from_eleven_to_six(at_h: float, next_h: float) -> None:
    night = _traits(idle_from_h=23.0, idle_hours=7.0)

    assert next_idle_s(night, at_h * HOUR_S) == pytest.approx(next_h * HOUR_S)


def test_a_phone_that_is_always_idle_is_idle_now() -> None:
    assert next_idle_s(_traits(idle_hours=24.0), 12.345 * DAY_S) == 12.345 * DAY_S


def test_calls_are_lost_as_often_as_the_profile_says_and_on_both_ways_alike() -> None:
    traits, rng = _traits(loss_share=0.1), random.Random(5)

    losses = [draw_call_loss(traits, rng) for _ in range(DRAWS)]

    deviation = (0.05 * 0.95 / DRAWS) ** 0.5
    for way in CallLoss:
        assert abs(losses.count(way) / DRAWS - 0.05) < Z * deviation


def test_phones_drop_out_as_often_as_the_profile_says_and_some_without_a_word() -> None:
    traits, rng = _traits(drop_out_share=0.2, silent_share=0.5, absence_s=100.0), random.Random(5)

    failures = [fate for fate in (draw_drop_out(traits, rng) for _ in range(DRAWS)) if fate]

    assert abs(len(failures) / DRAWS - 0.2) < Z * (0.2 * 0.8 / DRAWS) ** 0.5
    silent = sum(fate.away_s > 0 for fate in failures)
    assert abs(silent / len(failures) - 0.5) < Z * (0.25 / len(failures)) ** 0.5
    assert all(0.0 <= fate.after_ratio < 1.0 for fate in failures)


def test_luck_always_takes_the_same_number_of_draws() -> None:
    lucky, unlucky = random.Random(3), random.Random(3)

    draw_drop_out(_traits(drop_out_share=0.0), lucky)
    draw_call_loss(_traits(loss_share=0.0), lucky)
    draw_drop_out(_traits(drop_out_share=1.0), unlucky)
    draw_call_loss(_traits(loss_share=1.0), unlucky)

    assert lucky.random() == unlucky.random()


def test_bytes_take_time_by_the_network_and_both_ways_share_the_latency() -> None:
    traits = _traits(latency_s=0.1, up_bytes_s=1_000.0, down_bytes_s=10_000.0)

    assert traits.to_server_s(500) == pytest.approx(0.55)
    assert traits.from_server_s(500) == pytest.approx(0.1)
