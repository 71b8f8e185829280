"""The norm bound follows the median of what was accepted."""

import math

from keyflock_server.aggregation.norm_bound import NormBound


def test_before_enough_norms_are_known_only_the_absurd_is_refused() -> None:
    bound = NormBound(3.0)
    for _ in range(7):
        bound.accept(1.0)

    assert bound.admits(1e6)
    assert not bound.admits(1.1e6)


def test_the_bound_is_a_multiple_of_the_median() -> None:
    bound = NormBound(3.0)
    for norm in (1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1000.0):
        bound.accept(norm)

    assert bound.admits(6.0)
    assert not bound.admits(6.1)


def test_zero_updates_do_not_pull_the_median_down() -> None:
    bound = NormBound(3.0)
    for _ in range(8):
        bound.accept(1.0)
    for _ in range(100):
        bound.accept(0.0)

    assert bound.admits(3.0)


def test_a_ratio_of_zero_leaves_only_the_bound_on_the_absurd() -> None:
    bound = NormBound(0.0)
    for _ in range(100):
        bound.accept(1.0)

    assert bound.admits(1e6)
    assert not bound.admits(1.1e6)


def test_what_is_not_finite_is_never_admitted() -> None:
    bound = NormBound(0.0)

    assert not bound.admits(math.inf)
    assert not bound.admits(math.nan)


def test_a_median_beyond_all_reason_does_not_raise_the_bound() -> None:
    bound = NormBound(10.0)
    for _ in range(8):
        bound.accept(1e6)

    assert not bound.admits(1.1e6)
