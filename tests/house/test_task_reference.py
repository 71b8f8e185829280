"""The reference of a task's fields says what the schema says, and every example is a task."""

from pathlib import Path

import pytest
from tests.house import task_reference

from keyflock_server.rounds.task_validation import parse_task

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
    assert {"tutorial.toml", "production.toml", "personalize.toml"} <= {path.name for path in EXAMPLES}
