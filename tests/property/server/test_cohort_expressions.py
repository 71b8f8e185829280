"""The parser of cohort expressions takes any text, and what it writes it reads again."""

from hypothesis import given
from hypothesis import strategies as st

from keyflock_server.rounds.cohort import (
    MAX_LENGTH,
    AllOf,
    AnyOf,
    Cohort,
    CohortSyntaxError,
    Compared,
    DeviceAttributes,
    HasTag,
    LocaleIn,
    Not,
    matches,
    parse_cohort,
    to_text,
)

WORDS = ["app_build", "tier", "locale", "tags", "and", "or", "not", "in", "(", ")", ",", "==", ">=", "<"]
TOKENS = st.sampled_from([*WORDS, '"beta"', '"en-US"', "7", "!", '"', " "])
TEXTS = st.text(max_size=60) | st.lists(TOKENS, max_size=25).map(" ".join)
NAMES = st.text("abcxyz-0123456789", min_size=1, max_size=8)

LEAVES: st.SearchStrategy[Cohort] = st.one_of(
    st.builds(
        Compared,
        st.sampled_from(["app_build", "tier"]),
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.integers(0, 9_999),
    ),
    st.builds(LocaleIn, st.lists(NAMES, min_size=1, max_size=3).map(tuple)),
    st.builds(HasTag, NAMES),
)
PARTS = 2
COHORTS: st.SearchStrategy[Cohort] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, min_size=PARTS, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(inner, min_size=PARTS, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
    ),
    max_leaves=6,
)
DEVICES = st.builds(
    DeviceAttributes, st.integers(0, 9_999), NAMES, st.integers(0, 3), st.lists(NAMES, max_size=4).map(tuple)
)


@given(TEXTS)
def test_any_text_is_an_expression_or_says_where_it_is_none(text: str) -> None:
    try:
        parse_cohort(text)
    except CohortSyntaxError as error:
        position = int(str(error).removeprefix("At position ").partition(":")[0])
        assert 1 <= position <= len(text) + 1


@given(COHORTS)
def test_an_expression_that_is_written_is_read_as_the_same(cohort: Cohort) -> None:
    text = to_text(cohort)

    if len(text) <= MAX_LENGTH:
        assert parse_cohort(text) == cohort


@given(COHORTS, DEVICES)
def test_a_device_is_in_a_cohort_or_in_its_opposite(cohort: Cohort, device: DeviceAttributes) -> None:
    assert matches(cohort, device) is not matches(Not(cohort), device)
