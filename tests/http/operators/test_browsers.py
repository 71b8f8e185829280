"""A browser on an operator's machine: no page of another origin reads an answer, or changes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyflock_server.protocol.operator.table import OPERATOR_CALLS

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

    from keyflock_server.protocol.operator.call import AnyCall

#: The media types that a form, or a script without the server's leave, can send to another origin.
#: Source: the Fetch standard, "CORS-safelisted request-header".
SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
WITH_BODY = [call for call in OPERATOR_CALLS if call.max_body_bytes]
CHANGES = [call for call in OPERATOR_CALLS if call.is_mutation]


@pytest.mark.parametrize("call", OPERATOR_CALLS, ids=lambda call: call.name)
async def test_no_answer_lets_another_origin_read_it(admin_port: AdminPort, call: AnyCall) -> None:
    good = await admin_port.send(call, Origin="https://evil.example")
    refused = await admin_port.send(call, Origin="https://evil.example", Authorization=None)
    asked_first = await admin_port.request(
        "OPTIONS",
        call.path,
        headers={
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": call.method,
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )

    for answer in (good, refused, asked_first):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
    assert asked_first.status >= 400


@pytest.mark.parametrize("call", WITH_BODY, ids=lambda call: call.name)
async def test_a_body_that_a_form_could_send_is_refused(admin_port: AdminPort, call: AnyCall) -> None:
    answers = [await admin_port.send(call, b"{}", Content_Type=f"{kind}; charset=utf-8") for kind in SIMPLE]

    assert [answer.code() for answer in answers] == ["unsupported_media_type"] * len(SIMPLE)
    assert admin_port.service.calls == []


@pytest.mark.parametrize("call", CHANGES, ids=lambda call: call.name)
async def test_a_change_without_a_bearer_token_is_refused_whatever_else_a_browser_adds(
    admin_port: AdminPort, call: AnyCall
) -> None:
    answer = await admin_port.send(call, Authorization=None, Cookie=f"token={admin_port.token}")

    assert (answer.status, answer.code()) == (401, "token_missing")
    assert admin_port.service.calls == []
