"""The reference of a task's fields says what the schema says, and every example is a task."""

from pathlib import Path

import pytest
from tests.house import task_reference

from keyflock_server.rounds.cohort import AllOf, parse_cohort
from keyflock_server.rounds.task_validation import TaskError, parse_task

EXAMPLES = sorted((task_reference.PAGE.parent / "examples").glob("*.toml"))


def test_the_page_is_what_make_docs_writes() -> None:
    written = task_reference.PAGE.read_text(encoding="utf-8")

    assert written == task_reference.page(), "the schema has changed: run `make docs`"


def test_every_field_has_a_meaning() -> None:
    without = [row.path for row in task_reference.all_rows() if not row.meaning]

    assert without == []


def test_no_meaning_is_of_a_field_that_is_gone_or_has_a_comment_of_its_own() -> None:
    shown = {(row.path, row.meaning) for row in task_reference.all_rows()}

    assert [path for path, text in task_reference.MEANINGS.items() if (path, text) not in shown] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_task_that_can_be_created(path: Path) -> None:
    assert parse_task(path.read_text(encoding="utf-8")).population == "en-US"


def test_there_are_examples() -> None:
    assert {"tutorial.toml", "production.toml", "personalize.toml", "evaluate.toml"} <= {
        path.name for path in EXAMPLES
    }


@pytest.mark.fault("F15")
def test_the_example_of_a_cohort_expression_is_one() -> None:
    page = task_reference.PAGE.read_text(encoding="utf-8")
    block = page.split("A cohort expression, an example and the grammar:\n\n```\n")[1].split("\n```")[0]

    assert isinstance(parse_cohort(block.splitlines()[0]), AllOf)
    assert "either     = both" in block


@pytest.mark.fault("F15")
@pytest.mark.parametrize(
    "lines", ["goal = 4.0", "goal = 8\nmax_rounds = 3.0", "goal = 8\nmin_flush_clients = 4.0"]
)
def test_an_integer_with_a_decimal_point_is_refused_by_name(lines: str) -> None:
    name = lines.splitlines()[-1].split(" = ")[0]

    with pytest.raises(TaskError, match=f"round.{name}: Expected `int"):
        parse_task(f'[task]\nname = "t"\npopulation = "p"\n[round]\n{lines}\n')


@pytest.mark.fault("F15")
def test_a_number_may_be_written_without_a_decimal_point() -> None:
    spec = parse_task('[task]\nname = "t"\npopulation = "p"\n[round]\ngoal = 8\ndeadline_s = 60\n')

    assert spec.round.deadline_s == 60.0
