"""Query strings and JSON bodies become structs, and every mistake in them is named."""

import json
from datetime import UTC, datetime
from typing import Annotated

import pytest
from msgspec import Meta, Struct

from keyflock_server.http.operators.decoding import decode_body, decode_query
from keyflock_server.protocol.operator.call import Query, ReasonOrder
from keyflock_server.protocol.problems import ApiError, ProblemCode


class _Filter(Query, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    state: str | None = None
    is_open: bool | None = None
    since: datetime | None = None


class _Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1)]
    days: float = 1.0


class _Until(Struct, frozen=True, kw_only=True):
    until: datetime


def test_an_empty_query_string_is_all_defaults() -> None:
    assert decode_query("", _Filter) == _Filter()
    assert decode_query("", Query) == Query()


def test_a_query_string_is_read_by_the_types_of_its_fields() -> None:
    read = decode_query("limit=7&state=a%20b%26c&is_open=true&since=2026-03-01T12:00:00Z", _Filter)

    assert read == _Filter(limit=7, state="a b&c", is_open=True, since=datetime(2026, 3, 1, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("colour=green", ("1 unknown query parameter; those that are known: limit, state, is_open, since.",)),
        ("limit=0", ("limit: Expected `int` >= 1.",)),
        ("limit=1&limit=2", ("limit is there twice.",)),
        (
            "since=0001-01-01T00:00:00%2B14:00",
            ("since: an instant between the years 1970 and 8999 was expected.",),
        ),
        ("state=a%00b", ("state has a control character.",)),
        (
            "limit=many&is_open=perhaps&x=1&y=2",
            (
                "2 unknown query parameters; those that are known: limit, state, is_open, since.",
                "limit: Expected `int`, got `str`.",
                "is_open: Expected `bool | null`, got `str`.",
            ),
        ),
    ],
)
def test_every_mistake_of_a_query_string_is_named(text: str, problems: tuple[str, ...]) -> None:
    with pytest.raises(ApiError) as refused:
        decode_query(text, _Filter)

    assert (refused.value.code, refused.value.problems) == (ProblemCode.MALFORMED_QUERY, problems)


@pytest.mark.parametrize("text", ["limit", "&", "a=%ff", "a=1&" * 40, "=1&="])
def test_what_is_no_query_string_is_refused(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        decode_query(text, _Filter)

    assert refused.value.code is ProblemCode.MALFORMED_QUERY


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (b"{}", ("reason is missing.",)),
        (b"[]", ("Expected `object`, got `array`.",)),
        (
            b'{"reason": "", "days": "two", "force": true}',
            (
                "1 unknown field; those that are known: reason, days.",
                "reason: Expected `str` of length >= 1.",
                "days: Expected `float`, got `str`.",
            ),
        ),
    ],
)
def test_every_mistake_of_a_body_is_named(body: bytes, problems: tuple[str, ...]) -> None:
    with pytest.raises(ApiError) as refused:
        decode_body(body, _Order)

    assert (refused.value.code, refused.value.problems) == (ProblemCode.MALFORMED_BODY, problems)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 20_000, b'{"reason": "\xff"}'])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        decode_body(body, _Order)

    assert refused.value.code is ProblemCode.MALFORMED_BODY
    assert refused.value.detail


def test_an_instant_that_no_store_can_hold_is_refused() -> None:
    with pytest.raises(ApiError) as refused:
        decode_body(b'{"until": "9999-12-31T23:59:59-12:00"}', _Until)

    assert refused.value.problems == ("until: an instant between the years 1970 and 8999 was expected.",)


@pytest.mark.parametrize("character", ["\x9b", "\u202e", "\u2028", "\x1b"])
def test_a_reason_neither_commands_a_terminal_nor_turns_its_direction(character: str) -> None:
    with pytest.raises(ApiError) as refused:
        decode_body(json.dumps({"reason": f"a{character}b"}).encode(), ReasonOrder)

    assert refused.value.code is ProblemCode.MALFORMED_BODY
