"""Every failure that the operations page promises something of is shown by a test that is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_names_tests_that_are_there() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    section = page.split("## When something fails")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    heads = [row for row in rows if row.endswith("shown by |")]

    assert len(heads) == 3
    assert len(rows) - len(heads) >= 25
    for row in rows:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 4, row
        if row not in heads:
            named = re.findall(r"`([^`]+)`", cells[3])
            assert named, row
            assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []
