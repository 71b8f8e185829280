"""A task that runs may get another goal, minimum, over-selection or deadline, and stays a valid task."""

import msgspec
import pytest
from msgspec import UNSET

from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_changes import CHANGEABLE, with_changes
from keyflock_server.rounds.task_validation import TaskError, parse_task


def task(round_toml: str = "goal = 10\nminimum = 8") -> TaskSpec:
    return parse_task(f'[task]\nname = "t"\npopulation = "en"\n[round]\n{round_toml}')


def test_the_values_that_are_given_replace_those_that_were_and_nothing_else_changes() -> None:
    before = task("goal = 10\nminimum = 8\nmax_rounds = 3")

    after = with_changes(before, {"goal": 20, "minimum": UNSET, "over_selection": UNSET, "deadline_s": 30.0})

    assert (after.round.goal, after.round.minimum, after.round.deadline_s) == (20, 8, 30.0)
    assert msgspec.structs.replace(after, round=before.round) == before
    assert after.round.max_rounds == 3


def test_none_goes_back_to_the_default() -> None:
    after = with_changes(task(), {"goal": 20, "minimum": None})

    assert after.round.minimum is UNSET
    assert after.round.minimum_reports == 16


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"goal": 6}, "round.minimum is 8, more than round.goal 6"),
        ({"minimum": 2}, "below round.min_flush_clients"),
        ({"goal": 0}, "round: "),
        ({"deadline_s": float("inf")}, "round"),
    ],
)
def test_a_change_that_leaves_no_valid_task_is_refused_with_what_does_not_fit(
    changes: dict[str, object], detail: str
) -> None:
    with pytest.raises(TaskError, match=detail):
        with_changes(task(), changes)


def test_a_value_that_is_tuned_stays_within_its_limits() -> None:
    tuned = task("goal = 10\ndeadline_s = 60.0\n[round.auto]\ndeadline_s = [30.0, 90.0]")

    with pytest.raises(TaskError, match=r"round\.auto\.deadline_s"):
        with_changes(tuned, {"deadline_s": 100.0})


def test_what_may_be_changed_are_fields_of_the_round_table() -> None:
    assert set(CHANGEABLE) <= set(task().round.__struct_fields__)
