"""Heads and suggestions at the sdk_port: headers to conditions, answers to tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.protocol import calls
from keyflock_server.protocol.messages import Blend, Forgotten, SuggestionRequest
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from tests.http.conftest import SdkPort


@pytest.mark.parametrize(
    ("headers", "condition"),
    [
        ({}, None),
        ({"If_Match": '"0a0b"'}, b"\x0a\x0b"),
        ({"If_None_Match": "*"}, b""),
    ],
)
async def test_a_writer_says_what_it_replaces(
    sdk_port: SdkPort, headers: dict[str, str], condition: bytes | None
) -> None:
    answer = await sdk_port.send(calls.PUT_HEAD, b"new head", **headers)

    assert answer.status == 200
    assert answer.headers["ETag"] == '"0102"'
    assert sdk_port.service.calls == [("put_head", (sdk_port.phone, b"new head", condition))]


@pytest.mark.parametrize(
    "headers",
    [
        {"If_Match": '"not hexadecimal"'},
        {"If_Match": ""},
        {"If_Match": '""'},
        {"If_Match": "*"},
        {"If_Match": "0a0b"},
        {"If_Match": '"0a 0b"'},
        {"If_Match": '"0A0B"'},
        {"If_Match": '"0a0"'},
        {"If_Match": 'W/"0a0b"'},
        {"If_Match": '"0a0b", "0c0d"'},
        {"If_Match": "\u00ff\u00fe"},
        {"If_None_Match": '"0a0b"'},
        {"If_None_Match": ""},
        {"If_None_Match": "*", "If_Match": '"0a0b"'},
    ],
)
async def test_a_condition_that_is_not_understood_does_not_hold(
    sdk_port: SdkPort, headers: dict[str, str]
) -> None:
    answer = await sdk_port.send(calls.PUT_HEAD, b"new head", **headers)

    assert (answer.status, answer.code()) == (412, ProblemCode.PRECONDITION_FAILED)
    assert sdk_port.service.calls == []


async def test_a_head_that_the_phone_has_is_not_sent_again(sdk_port: SdkPort) -> None:
    fresh = await sdk_port.send(calls.GET_HEAD)
    again = await sdk_port.send(calls.GET_HEAD, If_None_Match=fresh.headers["ETag"])

    assert (fresh.status, fresh.body) == (200, b"head bytes")
    assert fresh.headers["Content-Type"] == "application/vnd.keyflock.head"
    assert "private" in fresh.headers["Cache-Control"]
    assert (again.status, again.body) == (304, b"")


async def test_another_populations_head_is_not_this_phones(sdk_port: SdkPort) -> None:
    for call in (calls.GET_HEAD, calls.PUT_HEAD, calls.DELETE_HEAD):
        body = b"head" if call.max_body_bytes else None
        answer = await sdk_port.request(call.method, "/v1/heads/de-DE", body, sdk_port.headers(call))

        assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)


@pytest.mark.parametrize("content_type", [None, "application/msgpack"])
async def test_a_head_comes_as_a_head(sdk_port: SdkPort, content_type: str | None) -> None:
    answer = await sdk_port.send(calls.PUT_HEAD, b"head", Content_Type=content_type)

    assert (answer.status, answer.code()) == (415, ProblemCode.UNSUPPORTED_MEDIA_TYPE)


async def test_a_head_beyond_the_limit_is_refused(sdk_port: SdkPort) -> None:
    answer = await sdk_port.send(calls.PUT_HEAD, bytes(calls.HEAD_BODY_BYTES + 1))

    assert (answer.status, answer.code()) == (413, ProblemCode.BODY_TOO_LARGE)


async def test_forget_me_erases_the_heads_first_and_tells_of_them(sdk_port: SdkPort) -> None:
    answer = await sdk_port.send(calls.FORGET)

    assert [name for name, _ in sdk_port.service.calls] == ["erasure_scope", "erase", "forget", "erase"]
    assert msgspec.msgpack.decode(answer.body, type=Forgotten) == Forgotten(
        devices=1, heads=2, is_scrubbed=False
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"context": 7},
        {"context": "x" * 2_001},
        {"context": "x" * 60_000},
        {"context": "how\0are"},
        {"context": "how\x1b[2Jare"},
        {"context": "how\x85are"},
        {"context": b"how are"},
        {"context": "", "k": 0},
        {"context": "", "k": 11},
        {"context": "", "k": 2**64 - 1},
        {"context": "", "k": 1.5},
        {"context": "", "k": None},
        {"context": "", "prefix": "x" * 49},
        {"context": "", "prefix": "x" * 10_000},
        {"context": "", "prefix": "te am"},
        {"context": "", "prefix": "te\n"},
        {"context": "", "prefix": "te\0"},
        {"context": "", "blend": "everything"},
    ],
)
async def test_a_question_out_of_bounds_is_refused(sdk_port: SdkPort, fields: dict[str, object]) -> None:
    answer = await sdk_port.send(calls.SUGGEST, msgspec.msgpack.encode(fields))

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert sdk_port.service.calls == []


@pytest.mark.parametrize(
    "text",
    [
        b"\xa3\xed\xa0\x80",  # a lone surrogate
        b"\xa2\xff\xfe",
        b"\xd9\xff",  # shorter than it says
    ],
)
async def test_a_context_that_is_no_text_is_refused(sdk_port: SdkPort, text: bytes) -> None:
    answer = await sdk_port.send(calls.SUGGEST, b"\x81\xa7context" + text)

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert sdk_port.service.calls == []


async def test_a_context_of_a_megabyte_is_not_even_read(sdk_port: SdkPort) -> None:
    answer = await sdk_port.send(calls.SUGGEST, msgspec.msgpack.encode({"context": "x" * 1_000_000}))

    assert (answer.status, answer.code()) == (413, ProblemCode.BODY_TOO_LARGE)
    assert sdk_port.service.calls == []


@pytest.mark.parametrize(
    "context", ["", "one\ntwo\tthree\r\n", "\u202eright to left\u2066", "\U0001f600" * 2_000]
)
async def test_what_people_type_is_taken(sdk_port: SdkPort, context: str) -> None:
    answer = await sdk_port.send(calls.SUGGEST, msgspec.msgpack.encode({"context": context}))

    assert answer.status == 200


async def test_a_refusal_does_not_repeat_what_was_sent(sdk_port: SdkPort) -> None:
    answer = await sdk_port.send(calls.SUGGEST, msgspec.msgpack.encode({"context": "", "blend": "my secret"}))

    assert answer.status == 422
    assert b"secret" not in answer.body
    assert b"$.blend" in answer.body


async def test_a_question_is_asked_as_it_came(sdk_port: SdkPort) -> None:
    question = SuggestionRequest(context="how are", prefix="yo", k=5, blend=Blend.PERSONAL)

    await sdk_port.send(calls.SUGGEST, msgspec.msgpack.encode(question))

    assert sdk_port.service.calls == [("suggest", (sdk_port.phone, question))]


async def test_what_the_operator_did_not_ask_for_is_off_and_says_so() -> None:
    nothing = PersonalEndpoints(None, None, None, None)  # type: ignore[arg-type]

    for call in (nothing.get_head, nothing.put_head, nothing.delete_head, nothing.suggest):
        with pytest.raises(Exception, match="was started without --") as refused:
            await call(None, b"")  # type: ignore[arg-type]
        assert refused.value.code is ProblemCode.FEATURE_OFF  # type: ignore[attr-defined]
