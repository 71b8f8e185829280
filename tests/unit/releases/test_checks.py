"""Which versions are published unasked: by the length of their step, and by the loss on the anchor text."""

from typing import Any

import msgspec
import pytest

from keyflock_server.releases.checks import publishing_problem, unacceptable_problem
from keyflock_server.releases.step_figures import StepFigures
from keyflock_server.rounds.checks_policy import ChecksPolicy
from keyflock_server.rounds.task_validation import TaskError, parse_task

pytestmark = pytest.mark.fault("D8")

ORDINARY = StepFigures(
    step_norm=1.0,
    step_row_norm=0.5,
    mean_delta_norm=1.0,
    mean_delta_row_norm=0.5,
    anchor_loss=5.0,
    anchor_loss_before=5.0,
    anchor_loss_chosen=5.0,
)
BOUNDS = ChecksPolicy()


def ordinary(**but: Any) -> StepFigures:  # noqa: ANN401 - any figure
    return msgspec.structs.replace(ORDINARY, **but)


def test_an_ordinary_step_is_published_with_and_without_a_past_and_an_anchor_text() -> None:
    silent = ordinary(anchor_loss=None, anchor_loss_before=None, anchor_loss_chosen=None)

    assert publishing_problem(ORDINARY, [], BOUNDS) == ""
    assert publishing_problem(ORDINARY, [ORDINARY] * 16, BOUNDS) == ""
    assert publishing_problem(silent, [], BOUNDS) == ""


@pytest.mark.parametrize(
    ("passing", "failing", "message"),
    [
        ({"step_norm": 30.0}, {"step_norm": 30.1}, "30 times the longest mean delta of this"),
        ({"step_row_norm": 15.0}, {"step_row_norm": 15.1}, "The step's longest row has norm 15.1"),
        ({"anchor_loss": 6.5}, {"anchor_loss": 6.51}, "more than 1.5 above that of the version before"),
        (
            {"anchor_loss": 8.0, "anchor_loss_before": 7.0},
            {"anchor_loss": 8.01, "anchor_loss_before": 7.0},
            "more than 3 above that of the version that was last chosen by a person",
        ),
        ({}, {"step_norm": None}, "The norm of the step is not finite"),
        ({}, {"step_row_norm": None}, "The norm of the step's longest row is not finite"),
        ({}, {"non_finite_weights": 3}, "3 of the new version's weights"),
        ({}, {"non_finite_losses": 1, "anchor_loss": None}, "loss on the anchor text is not finite"),
    ],
)
def test_each_bound_holds_a_round_only_beyond_it(
    passing: dict[str, Any], failing: dict[str, Any], message: str
) -> None:
    assert publishing_problem(ordinary(**passing), [], BOUNDS) == ""
    assert message in publishing_problem(ordinary(**failing), [], BOUNDS)


def test_a_step_is_compared_with_those_that_were_made_before() -> None:
    history = [ordinary(step_norm=length, step_row_norm=0.5) for length in (0.5, 2.0, 1.0)]

    assert publishing_problem(ordinary(step_norm=10.0), history, BOUNDS) == ""
    problem = publishing_problem(ordinary(step_norm=10.1), history, BOUNDS)
    assert problem == ("The step has norm 10.1, more than 5 times the longest of the last 3 rounds (2).")


def test_a_cohort_that_says_little_does_not_make_the_momentum_of_the_others_look_long() -> None:
    little = ordinary(mean_delta_norm=0.001, mean_delta_row_norm=0.0005)

    assert publishing_problem(little, [ORDINARY], BOUNDS) == ""
    assert "longest mean delta" in publishing_problem(little, [], BOUNDS)


def test_where_deltas_are_clipped_a_short_step_does_not_make_the_next_ordinary_one_look_long() -> None:
    little = ordinary(step_norm=0.01, step_row_norm=1e-9, mean_delta_norm=0.01, mean_delta_row_norm=1e-9)
    stretched = ordinary(step_norm=5.1)

    assert publishing_problem(ORDINARY, [little], BOUNDS, is_clipped=True) == ""
    problem = publishing_problem(stretched, [little], BOUNDS, is_clipped=True)
    assert problem == (
        "The step has norm 5.1, more than 5 times what the last 1 rounds made of such a mean delta (1)."
    )
    assert "of the last 1 rounds" in publishing_problem(ORDINARY, [little], BOUNDS)


def test_what_is_usual_where_deltas_are_clipped_is_in_proportion_to_this_rounds_mean_delta() -> None:
    history = [ordinary(step_norm=0.1, mean_delta_norm=0.1, step_row_norm=0.1, mean_delta_row_norm=0.1)]
    longer = {"mean_delta_norm": 2.0, "mean_delta_row_norm": 2.0}
    unmeasured = {"mean_delta_norm": None, "mean_delta_row_norm": None, "step_row_norm": 0.1}

    def problem(**figures: Any) -> str:  # noqa: ANN401 - any figure
        return publishing_problem(ordinary(**figures), history, BOUNDS, is_clipped=True)

    assert problem(step_norm=10.0, **longer) == ""
    assert problem(step_norm=10.1, **longer).endswith("what the last 1 rounds made of such a mean delta (2).")
    assert problem(step_norm=0.5, **unmeasured) == ""
    assert problem(step_norm=0.51, **unmeasured).endswith("the longest of the last 1 rounds (0.1).")


def test_a_round_that_could_not_be_measured_is_no_measure_for_later_ones() -> None:
    unmeasured: list[dict[str, Any]] = [
        {"step_norm": None},
        {"mean_delta_norm": None},
        {"mean_delta_norm": 0.0, "mean_delta_row_norm": 0.0},
    ]
    history = [ordinary(**figures) for figures in unmeasured] + [ORDINARY]

    assert publishing_problem(ordinary(step_norm=5.0), history, BOUNDS, is_clipped=True) == ""
    assert publishing_problem(ordinary(step_norm=5.1), history, BOUNDS, is_clipped=True) != ""


@pytest.mark.parametrize("missing", ["anchor_loss", "anchor_loss_before", "anchor_loss_chosen"])
def test_a_loss_that_is_missing_is_compared_with_nothing(missing: str) -> None:
    figures = {"anchor_loss": 6.4, "anchor_loss_before": 5.0, "anchor_loss_chosen": 5.0}
    too_high = {"anchor_loss": 8.1, "anchor_loss_before": 5.0, "anchor_loss_chosen": 5.0}

    assert publishing_problem(ordinary(**figures | {missing: None}), [], BOUNDS) == ""
    problem = publishing_problem(ordinary(**too_high | {missing: None}), [], BOUNDS)
    assert ("the version" in problem) is (missing != "anchor_loss")


@pytest.mark.parametrize(
    "field", ["max_step_ratio", "max_step_growth", "max_anchor_rise", "max_anchor_drift"]
)
def test_a_bound_of_zero_is_no_bound(field: str) -> None:
    figures = {
        "max_step_ratio": ordinary(step_norm=1e3, step_row_norm=1e3),
        "max_step_growth": ordinary(step_norm=29.0),
        "max_anchor_rise": ordinary(anchor_loss=7.0),
        "max_anchor_drift": ordinary(anchor_loss=9.0, anchor_loss_before=8.0),
    }[field]
    history = [ORDINARY] if field == "max_step_growth" else []

    assert publishing_problem(figures, history, BOUNDS)
    assert not publishing_problem(figures, history, msgspec.structs.replace(BOUNDS, **{field: 0.0}))


def test_what_cannot_be_served_cannot_be_wanted_whatever_the_bounds_say() -> None:
    off = ChecksPolicy(max_step_ratio=0, max_step_growth=0, max_anchor_rise=0, max_anchor_drift=0)
    broken = ordinary(non_finite_weights=1)

    assert publishing_problem(broken, [], off) == unacceptable_problem(broken) != ""
    assert unacceptable_problem(ordinary(step_norm=1e6, anchor_loss=1e6)) == ""


def test_figures_come_back_as_they_were_stored_and_are_numbers_for_whoever_reads_the_round() -> None:
    stored = ordinary(anchor_loss=None).to_json()

    assert StepFigures.from_json(stored) == ordinary(anchor_loss=None)
    assert all(type(value) is float for value in msgspec.json.decode(stored, type=dict[str, float]).values())
    assert StepFigures.from_json("") == StepFigures()


def test_bounds_are_a_table_of_the_task() -> None:
    head = '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n'

    assert parse_task(head).checks == ChecksPolicy()
    assert parse_task(head + "[checks]\nmax_step_ratio = 7\n").checks.max_step_ratio == 7.0
    with pytest.raises(TaskError, match=r"checks\.max_step_ratio"):
        parse_task(head + "[checks]\nmax_step_ratio = -1\n")
