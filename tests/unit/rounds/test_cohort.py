"""Cohort expressions: which devices match, and the messages for mistyped ones."""

import pytest

from keyflock_server.rounds.cohort import (
    MAX_DEPTH,
    MAX_LENGTH,
    CohortSyntaxError,
    DeviceAttributes,
    matches,
    parse_cohort,
)
from keyflock_server.rounds.task_validation import TaskError, parse_task

PHONE = DeviceAttributes(app_build=4200, locale="en-US", tier=2, tags=("beta",))


@pytest.mark.parametrize(
    "expression",
    [
        'locale in ("en", "en-GB") and app_build >= 4200 and "beta" in tags and not ("internal" in tags)',
        "tier == 2",
        "tier != 3",
        'locale == "en"',
        'locale not in ("de", "fr")',
        'locale != "en-GB"',
        '"internal" not in tags',
        "tier < 1 or tier > 1 and app_build <= 4200",
        'not not "beta" in tags',
        'tier>=2and"beta"in tags',
    ],
)
def test_a_phone_is_in_the_cohorts_that_fit_it(expression: str) -> None:
    assert matches(parse_cohort(expression), PHONE)


@pytest.mark.parametrize(
    "expression",
    ["tier > 2", 'locale in ("de")', 'locale == "en-GB"', '"internal" in tags', '"bet" in tags', "tier == 0"],
)
def test_a_phone_is_in_no_other(expression: str) -> None:
    assert not matches(parse_cohort(expression), PHONE)


def test_and_binds_closer_than_or() -> None:
    assert matches(parse_cohort("tier == 2 or tier == 1 and app_build == 0"), PHONE)
    assert not matches(parse_cohort("(tier == 2 or tier == 1) and app_build == 0"), PHONE)


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("tier >", "At position 7: expected a number, found the end."),
        ("tier >= x", "At position 9: expected a number, found a word."),
        ("tier", "At position 5: expected one of == != < <= > >=, found the end."),
        ("tier == 1 tier", "At position 11: expected 'and', 'or' or the end, found a word."),
        ('"beta" tags', "At position 8: expected 'in', found a word."),
        ("(tier == 1", "At position 11: expected ')', found the end."),
        ("country == 1", "At position 1: expected 'app_build', 'tier', 'locale', a tag in double quotes, "),
        ("tier == 1 ; drop", "At position 11: expected 'and', 'or' or the end, found a character that"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(expression: str, complaint: str) -> None:
    with pytest.raises(CohortSyntaxError) as refused:
        parse_cohort(expression)

    assert str(refused.value).startswith(complaint)


def test_length_and_depth_are_bounded_on_both_sides() -> None:
    deepest = "not " * MAX_DEPTH + "tier == 1"
    longest = "tier == 1" + " " * (MAX_LENGTH - len("tier == 1"))

    assert not matches(parse_cohort(deepest), PHONE)
    assert not matches(parse_cohort(longest), PHONE)
    with pytest.raises(CohortSyntaxError, match="nested deeper than 16"):
        parse_cohort("not " + deepest)
    with pytest.raises(CohortSyntaxError, match="at most 1000 characters, this one 1001"):
        parse_cohort(longest + " ")


def test_a_task_with_a_bad_cohort_is_refused_with_the_field_and_the_place() -> None:
    text = '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n[eligibility]\ncohort = "tier >> 2"\n'

    with pytest.raises(TaskError) as refused:
        parse_task(text)

    assert str(refused.value) == "eligibility.cohort: At position 7: expected a number, found a sign."


def test_a_misspelt_device_rule_is_refused() -> None:
    text = '[task]\nname = "t"\npopulation = "en"\n[round]\ngoal = 4\n[eligibility.device]\nmin_words = 2\n'

    with pytest.raises(
        TaskError, match=r"eligibility\.device: unknown field `min_words`; did you mean min_w"
    ):
        parse_task(text)
