"""Over-selection and deadlines follow the last rounds, and only within the operator's limits."""

import math
import random

import pytest

from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import TaskError, parse_task
from keyflock_server.rounds.tuning import (
    AssignmentOutcome,
    OutcomeKind,
    RoundHistory,
    assignment_limit_s,
    completion,
    slots_for,
    tuned,
)

TASK = """
[task]
name = "t"
population = "en"
[round]
goal = 100
over_selection = 0.3
deadline_s = 600.0
[round.auto]
over_selection = [0.05, 1.0]
deadline_s = [60.0, 3600.0]
"""


def spec(text: str = TASK) -> TaskSpec:
    return parse_task(text)


def reported(after_s: float, assigned_after_s: float = 0.0) -> AssignmentOutcome:
    return AssignmentOutcome(OutcomeKind.REPORTED, assigned_after_s, after_s)


def test_without_the_table_nothing_moves() -> None:
    fixed = spec(TASK.partition("[round.auto]")[0])
    history = RoundHistory((), (reported(10.0),) * 100)

    assert tuned(fixed, history) is fixed


def test_before_there_is_enough_to_see_a_round_is_as_the_task_says() -> None:
    history = RoundHistory((), (reported(10.0),) * 29)

    assert tuned(spec(), history) == spec()


def test_phones_that_all_report_need_the_least_over_selection_and_one_and_a_half_times_their_time() -> None:
    history = RoundHistory((), (reported(100.0, assigned_after_s=20.0),) * 100)

    after = tuned(spec(), history).round

    assert after.over_selection == 0.05
    assert after.deadline_s == pytest.approx(20.0 + 1.5 * 100.0 * math.exp(1.645 * 0.05))


def a_round(rng: random.Random, slots: int, goal: int, drop_out_share: float) -> list[AssignmentOutcome]:
    """Phones of log-normal speed; the round closes with the goal's report, and hides what came after."""
    times = [rng.lognormvariate(4.0, 0.6) if rng.random() >= drop_out_share else None for _ in range(slots)]
    arrived = sorted(time for time in times if time is not None)
    ends_s = arrived[goal - 1] if len(arrived) >= goal else 3_600.0
    return [
        reported(time)
        if time is not None and time <= ends_s
        else AssignmentOutcome(OutcomeKind.CENSORED, 0.0, ends_s)
        for time in times
    ]


@pytest.mark.parametrize("drop_out_share", [0.0, 0.1, 0.25])
def test_tuning_settles_and_does_not_chase_what_a_closed_round_hides(drop_out_share: float) -> None:
    rng, over_selection = random.Random(3), 0.3
    course = []
    for _ in range(12):
        slots = math.ceil(100 * (1.0 + over_selection))
        outcomes = [one for _ in range(8) for one in a_round(rng, slots, 100, drop_out_share)]
        over_selection = tuned(spec(), RoundHistory((), tuple(outcomes))).round.over_selection
        course.append(over_selection)

    # What it would be if the drop-outs were known, and not the 0.5 to 1.0 that dividing would run up to.
    # Seeds are fixed: this passes always or never.
    known = max(0.05, slots_for(100, 1.0 - drop_out_share) / 100 - 1.0)
    assert all(known - 0.1 <= one <= known + 0.15 for one in course[2:]), course


def test_phones_that_gave_back_are_known_to_be_lost() -> None:
    failed = [AssignmentOutcome(OutcomeKind.FAILED, 0.0, 50.0)] * 20

    found = completion([*(reported(40.0) for _ in range(80)), *failed])

    assert found is not None
    assert found.report_ratio == 0.8


def test_more_drop_outs_ask_for_more_phones_up_to_the_limit() -> None:
    def after(drop_outs: int) -> float:
        failed = [AssignmentOutcome(OutcomeKind.FAILED, 0.0, 50.0)] * drop_outs
        outcomes = (*([reported(50.0)] * (100 - drop_outs)), *failed)
        return tuned(spec(), RoundHistory((), outcomes)).round.over_selection

    assert [round(after(share), 2) for share in (0, 10, 30, 80)] == [0.05, 0.18, 0.57, 1.0]


@pytest.mark.parametrize(("goal", "ratio", "slots"), [(100, 1.0, 100), (100, 0.9, 118), (1, 0.5, 7)])
def test_slots_fill_the_goal_in_nineteen_rounds_of_twenty(goal: int, ratio: float, slots: int) -> None:
    assert slots_for(goal, ratio) == slots


def test_limits_that_leave_out_the_start_are_refused() -> None:
    with pytest.raises(TaskError) as refused:
        spec(TASK.replace("[0.05, 1.0]", "[0.5, 1.0]"))

    assert str(refused.value) == (
        "round.auto.over_selection is [0.5, 1] and round.over_selection, where it begins, is 0.3: "
        "give [least, most] around it."
    )


def lost(after_s: float) -> AssignmentOutcome:
    return AssignmentOutcome(OutcomeKind.CENSORED, 0.0, after_s)


@pytest.mark.fault("D13")
@pytest.mark.parametrize(
    ("outcomes", "sequence", "limit_s"),
    [
        ((), 2, None),
        ((reported(100.0),) * 29, 2, None),
        ((reported(100.0),) * 200, 2, pytest.approx(150.0)),
        ((reported(100.0),) * 200, 3, pytest.approx(150.0)),
        # What the fit expects of phones that were silent is no reason to wait for ever.
        ((reported(30.0), reported(500.0)) * 8 + (lost(600.0),) * 58, 3, pytest.approx(750.0)),
        ((reported(0.1),) * 200, 2, 60.0),
        # Nobody ever reports: every other round takes turns.
        ((lost(600.0),) * 129, 2, None),
        ((lost(600.0),) * 130, 2, 60.0),
        ((lost(600.0),) * 130, 3, None),
        (((reported(9.0),) + (lost(600.0),) * 28), 2, None),
    ],
)
def test_an_assignment_may_take_half_as_long_again_as_nineteen_of_twenty_reports(
    outcomes: tuple[AssignmentOutcome, ...], sequence: int, limit_s: float | None
) -> None:
    policy = spec().round

    assert assignment_limit_s(policy, RoundHistory((), outcomes), sequence) == limit_s
