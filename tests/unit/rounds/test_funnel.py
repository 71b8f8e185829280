"""How far devices came, out of states and session shapes."""

import pytest

from keyflock_server.rounds.funnel import Funnel, Sessions, funnel, quantile


def test_each_step_has_those_who_came_as_far_or_further() -> None:
    sessions = [
        Sessions("counted", "-v[]+^", 8),
        Sessions("failed", "-v[!", 2),
        Sessions("failed", "-*", 1),
        Sessions("expired", "", 3),
        Sessions("assigned", "-v[]+#", 1),
    ]

    assert funnel(sessions, "counted") == Funnel(assigned=15, downloaded=11, trained=9, uploaded=9, counted=8)


def test_a_counted_report_went_all_the_way_whatever_its_phone_says() -> None:
    assert funnel([Sessions("counted", "", 2)], "counted") == Funnel(2, 2, 2, 2, 2)
    assert funnel([Sessions("failed", "^", 2)], "counted") == Funnel(2, 2, 2, 2, 0)
    assert funnel([], "counted") == Funnel(0, 0, 0, 0, 0)


@pytest.mark.parametrize(("ratio", "found"), [(0.0, 1.0), (0.5, 2.0), (0.95, 4.0), (1.0, 4.0)])
def test_a_quantile_is_a_value_that_was_there(ratio: float, found: float) -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], ratio) == found
    assert quantile([], ratio) is None
