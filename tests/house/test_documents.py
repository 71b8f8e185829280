"""Pages name tests and pages that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
THREAT_MODEL = ROOT / "docs" / "threat_model.md"


def threats() -> list[list[str]]:
    """The cells of each row."""
    lines = [line for line in THREAT_MODEL.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "asset"]


def test_each_threat_says_what_holds_what_does_not_and_which_tests_show_it() -> None:
    rows = threats()

    assert len(rows) >= 20
    for row in rows:
        assert len(row) == 5, row
        assert all(row[:4]), row
        named = re.findall(r"`([^`]+)`", row[4])
        assert named or row[2].startswith("nothing"), f"{row[0]}: what holds is shown by no test"
        assert [name for name in named if not (ROOT / name).is_file()] == [], row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_to_a_file_leads_to_one(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]

    assert [link for link in links if not (page.parent / link).exists() and "NNNN" not in link] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/.-]+)`", page.read_text(encoding="utf-8"))

    assert [name for name in named if not (ROOT / name).exists()] == []
