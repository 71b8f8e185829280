"""Heads and suggestions at the door: headers to conditions, answers to tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from keyflock_server.http.personal import PersonalCalls
from keyflock_server.protocol import calls
from keyflock_server.protocol.messages import Blend, Forgotten, SuggestionRequest
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from tests.http.conftest import Door


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({}, None),
        ({"If_Match": "*"}, None),
        ({"If_Match": '"0a0b"'}, b"\x0a\x0b"),
        ({"If_None_Match": "*"}, b""),
    ],
)
async def test_a_writer_says_what_it_replaces(
    door: Door, headers: dict[str, str], condition: bytes | None
) -> None:
    answer = await door.send(calls.PUT_HEAD, b"new head", **headers)

    assert answer.status == 200
    assert answer.headers["ETag"] == '"0102"'
    assert door.service.calls == [("put_head", (door.phone, b"new head", condition))]


async def test_a_tag_that_nobody_gave_is_refused(door: Door) -> None:
    answer = await door.send(calls.PUT_HEAD, b"new head", If_Match='"not hexadecimal"')

    assert (answer.status, answer.code()) == (412, ProblemCode.PRECONDITION_FAILED)
    assert door.service.calls == []


async def test_a_head_that_the_phone_has_is_not_sent_again(door: Door) -> None:
    fresh = await door.send(calls.GET_HEAD)
    again = await door.send(calls.GET_HEAD, If_None_Match=fresh.headers["ETag"])

    assert (fresh.status, fresh.body) == (200, b"head bytes")
    assert fresh.headers["Content-Type"] == "application/vnd.keyflock.head"
    assert "private" in fresh.headers["Cache-Control"]
    assert (again.status, again.body) == (304, b"")


async def test_another_populations_head_is_not_this_phones(door: Door) -> None:
    for call in (calls.GET_HEAD, calls.PUT_HEAD, calls.DELETE_HEAD):
        body = b"head" if call.max_body_bytes else None
        answer = await door.request(call.method, "/v1/heads/de-DE", body, door.headers(call))

        assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)


@pytest.mark.parametrize("content_type", [None, "application/msgpack"])
async def test_a_head_comes_as_a_head(door: Door, content_type: str | None) -> None:
    answer = await door.send(calls.PUT_HEAD, b"head", Content_Type=content_type)

    assert (answer.status, answer.code()) == (415, ProblemCode.UNSUPPORTED_MEDIA_TYPE)


async def test_a_head_beyond_the_limit_is_refused(door: Door) -> None:
    answer = await door.send(calls.PUT_HEAD, bytes(calls.HEAD_BODY_BYTES + 1))

    assert (answer.status, answer.code()) == (413, ProblemCode.BODY_TOO_LARGE)


async def test_forget_me_erases_the_heads_first_and_tells_of_them(door: Door) -> None:
    answer = await door.send(calls.FORGET)

    assert [name for name, _ in door.service.calls] == ["erase", "forget", "erase"]
    assert msgspec.msgpack.decode(answer.body, type=Forgotten) == Forgotten(
        devices=1, heads=2, is_scrubbed=False
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"context": 7},
        {"context": "x" * 2_001},
        {"context": "", "k": 0},
        {"context": "", "k": 11},
        {"context": "", "prefix": "x" * 49},
        {"context": "", "blend": "everything"},
    ],
)
async def test_a_question_out_of_bounds_is_refused(door: Door, fields: dict[str, object]) -> None:
    answer = await door.send(calls.SUGGEST, msgspec.msgpack.encode(fields))

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert door.service.calls == []


async def test_a_question_is_asked_as_it_came(door: Door) -> None:
    question = SuggestionRequest(context="how are", prefix="yo", k=5, blend=Blend.PERSONAL)

    await door.send(calls.SUGGEST, msgspec.msgpack.encode(question))

    assert door.service.calls == [("suggest", (door.phone, question))]


async def test_what_the_operator_did_not_ask_for_is_off_and_says_so() -> None:
    nothing = PersonalCalls(None, None, None, None)  # type: ignore[arg-type]

    for call in (nothing.get_head, nothing.put_head, nothing.delete_head, nothing.suggest):
        with pytest.raises(Exception, match="was started without --") as refused:
            await call(None, b"")  # type: ignore[arg-type]
        assert refused.value.code is ProblemCode.FEATURE_OFF  # type: ignore[attr-defined]
