"""The norm bound follows the median of what was accepted."""

from keyflock_server.aggregation.norm_bound import NormBound


def test_there_is_no_bound_before_enough_norms_are_known() -> None:
    bound = NormBound(3.0)
    for _ in range(7):
        bound.accept(1.0)

    assert bound.admits(1e9)


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


def test_a_ratio_of_zero_is_no_bound() -> None:
    bound = NormBound(0.0)
    for _ in range(100):
        bound.accept(1.0)

    assert bound.admits(1e30)
