"""A task that trains ends when what phones measure reaches a value, or does not improve for so long."""

import pytest

from keyflock_server.rounds.evaluating import StopWhen
from keyflock_server.rounds.stopping import stop_decision


def test_nothing_ends_before_anything_was_measured() -> None:
    decision = stop_decision(StopWhen(reaches=0.0, no_improvement_for=1), [])

    assert decision == (False, "No evaluation of recall_at_3 has closed yet.")


@pytest.mark.parametrize(
    ("metric", "reaches", "values", "ends"),
    [
        ("recall_at_3", 0.25, [0.2, 0.24], False),
        ("recall_at_3", 0.25, [0.2, 0.25], True),
        ("recall_at_3", 0.25, [0.26, 0.24], True),
        ("nll", 5.0, [6.0, 5.1], False),
        ("nll", 5.0, [6.0, 5.0], True),
    ],
)
def test_it_ends_when_an_evaluation_reaches_the_value(
    metric: str, reaches: float, values: list[float], *, ends: bool
) -> None:
    policy = StopWhen(metric=metric, reaches=reaches)  # type: ignore[arg-type]  # the parameters above

    assert stop_decision(policy, values).ends is ends


@pytest.mark.parametrize(
    ("metric", "values", "ends"),
    [
        ("recall_at_3", [0.2], False),
        ("recall_at_3", [0.2, 0.1], False),
        ("recall_at_3", [0.2, 0.1, 0.2], True),
        ("recall_at_3", [0.2, 0.1, 0.3], False),
        ("recall_at_3", [0.2, 0.1, 0.3, 0.3], False),
        ("recall_at_3", [0.2, 0.1, 0.3, 0.3, 0.1], True),
        ("nll", [6.0, 5.0, 4.0], False),
        ("nll", [4.0, 5.0, 6.0], True),
    ],
)
def test_it_ends_when_two_in_a_row_do_not_improve_on_the_best(
    metric: str, values: list[float], *, ends: bool
) -> None:
    policy = StopWhen(metric=metric, no_improvement_for=2)  # type: ignore[arg-type]  # the parameters above

    assert stop_decision(policy, values).ends is ends


def test_an_improvement_has_to_be_larger_than_the_least_delta() -> None:
    policy = StopWhen(no_improvement_for=2, min_delta=0.125)

    assert stop_decision(policy, [0.25, 0.375, 0.375]).ends
    assert not stop_decision(policy, [0.25, 0.375, 0.5]).ends


def test_operators_are_told_how_far_it_is() -> None:
    policy = StopWhen(reaches=0.5, no_improvement_for=3)

    assert stop_decision(policy, [0.25, 0.3, 0.25]).reason == (
        "recall_at_3 is 0.25, the best was 0.3; it ends at 0.5, 1 of 3 evaluations have not improved on it."
    )
    assert stop_decision(policy, [0.3, 0.25, 0.2, 0.1]).reason == (
        "recall_at_3 is 0.1, the best was 0.3, and 3 evaluations have not improved on it."
    )
    assert stop_decision(policy, [0.25, 0.625]).reason == "recall_at_3 has reached 0.625 (0.5 asked)."
