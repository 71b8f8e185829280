"""Each record has a status, numbers have no gaps, and records that replace others name each other."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "decisions"
RECORDS = {path.name: path for path in sorted(FOLDER.glob("[0-9]*.md"))}
#: The same relation, as the other record says it.
MIRRORED = {
    "supersedes": "superseded by",
    "superseded by": "supersedes",
    "amends": "amended by",
    "amended by": "amends",
}
LINKS = r"\[\d{4}\]\([^)]+\)(?: and \[\d{4}\]\([^)]+\))*"
STATUS = re.compile(
    rf"Status: (?:not used|superseded by {LINKS}|accepted(?:; (?:supersedes|amends|amended by) {LINKS})*)"
)


def status(name: str) -> str:
    lines = RECORDS[name].read_text(encoding="utf-8").splitlines()
    assert lines[1] == lines[3] == "", f"{name}: the status stands alone under the title"
    return lines[2]


def relations(name: str) -> set[tuple[str, str]]:
    """What a record says of others: the relation, and the other's file."""
    return {
        (relation, other)
        for part in status(name).removeprefix("Status: ").split("; ")
        for relation in MIRRORED
        if part.startswith(f"{relation} ")
        for other in re.findall(r"\]\(([^)]+)\)", part)
    }


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_has_a_status_that_is_known(name: str) -> None:
    assert STATUS.fullmatch(status(name)), status(name)


def test_numbers_have_no_gaps_and_titles_have_them_too() -> None:
    numbers = [int(name[:4]) for name in RECORDS]

    assert numbers == list(range(1, len(RECORDS) + 1))
    for name, path in RECORDS.items():
        found = re.match(r"# 0*(\d+)", path.read_text(encoding="utf-8"))
        assert found is not None, name
        assert int(found[1]) == int(name[:4]), name


def test_a_link_shows_the_number_of_the_record_that_it_leads_to() -> None:
    for name in RECORDS:
        for number, other in re.findall(r"\[(\d{4})\]\(([^)]+)\)", status(name)):
            assert other in RECORDS, f"{name}: there is no {other}"
            assert other.startswith(f"{number}-"), f"{name}: {number} leads to {other}"


def test_records_that_replace_or_amend_others_name_each_other() -> None:
    stated = {(name, relation, other) for name in RECORDS for relation, other in relations(name)}

    assert {(other, MIRRORED[relation], name) for name, relation, other in stated} == stated
    assert ("0009-default-codec.md", "superseded by", "0026-rows-in-the-uplink.md") in stated
