"""The operators' port: every call with every kind of wrong token and body, in JSON."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.http.operators.conftest import PATH_PARAMS, AdminPort, path_of

from keyflock_server.http.readiness import ServerState
from keyflock_server.protocol.operator import tokens
from keyflock_server.protocol.operator.call import AnyCall, ReasonOrder
from keyflock_server.protocol.operator.events import EVENTS
from keyflock_server.protocol.operator.populations import CREATE_POPULATION
from keyflock_server.protocol.operator.table import OPERATOR_CALLS
from keyflock_server.protocol.operator.tasks import CREATE_TASK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TUTORIAL_TASK = Path(__file__).parents[3] / "docs" / "examples" / "tutorial.toml"
WITHOUT_BODY = [call for call in OPERATOR_CALLS if not call.max_body_bytes and call is not EVENTS]
WITH_BODY = [call for call in OPERATOR_CALLS if call.max_body_bytes]
ABOUT_A_TASK = [call for call in OPERATOR_CALLS if "{task}" in call.path]

WITH_TOKEN = [call for call in OPERATOR_CALLS if call.role is not None]
NAMING = [call for call in WITHOUT_BODY if "{" in call.path and call.role is not None]

every = pytest.mark.parametrize("call", OPERATOR_CALLS, ids=lambda call: call.name)
without_body = pytest.mark.parametrize("call", WITHOUT_BODY, ids=lambda call: call.name)
with_body = pytest.mark.parametrize("call", WITH_BODY, ids=lambda call: call.name)


@pytest.mark.parametrize(
    "call", [call for call in WITHOUT_BODY if call.answer is not bytes], ids=lambda call: call.name
)
async def test_a_good_call_is_answered_in_json(admin_port: AdminPort, call: AnyCall) -> None:
    answer = await admin_port.send(call)

    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert msgspec.convert(answer.body, call.answer)
    shown = ["device"] if call.name == "revoke_device" else []
    scripted = [] if call in tokens.CALLS else [call.name, *shown]
    assert [name for name, _ in admin_port.service.calls] == scripted


@pytest.mark.parametrize("call", WITH_TOKEN, ids=lambda call: call.name)
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "token_missing"),
        ("Bearer wrong", "token_invalid"),
        ("Bearer the-admin-token2", "token_invalid"),
        ("Basic dGhlLWFkbWluLXRva2Vu", "token_invalid"),
        ("Bearer tökèn", "token_invalid"),
    ],
)
async def test_only_the_admin_token_opens_a_call(
    admin_port: AdminPort, call: AnyCall, value: str | None, code: str
) -> None:
    answer = await admin_port.send(call, b"x" if call.max_body_bytes else None, Authorization=value)

    assert (answer.status, answer.code()) == (401, code)
    assert admin_port.service.calls == []


@with_body
@pytest.mark.parametrize("content_type", [None, "application/msgpack", "text/plain"])
async def test_a_body_of_another_type_is_not_taken(
    admin_port: AdminPort, call: AnyCall, content_type: str | None
) -> None:
    answer = await admin_port.send(call, b"x", Content_Type=content_type)

    assert (answer.status, answer.code()) == (415, "unsupported_media_type")


@with_body
async def test_a_compressed_body_is_not_taken(admin_port: AdminPort, call: AnyCall) -> None:
    answer = await admin_port.send(call, b"x", Content_Encoding="gzip")

    assert (answer.status, answer.code()) == (415, "unsupported_media_type")


@without_body
async def test_a_call_that_takes_no_body_refuses_one(admin_port: AdminPort, call: AnyCall) -> None:
    answer = await admin_port.send(call, b"x")

    assert (answer.status, answer.code()) == (413, "body_too_large")


async def test_a_task_beyond_the_limit_is_refused(admin_port: AdminPort) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"#" * 65_536

    known, unknown = (
        await admin_port.send(CREATE_TASK, b"#" * 65_537),
        await admin_port.send(CREATE_TASK, endless()),
    )

    assert (known.status, known.code()) == (413, "body_too_large")
    assert (unknown.status, unknown.code()) == (413, "body_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[task",
        b"\xff\xfe",
        b"[task]\nname = 1\n",
        b"[task]\nname = 'x'\ncolour = 'green'\n",
        b"a = " + b"[" * 30_000,
        b"\x00" * 100,
    ],
    ids=["empty", "truncated", "not text", "wrong type", "unknown field", "nested", "zeros"],
)
async def test_a_task_that_cannot_be_read_is_refused(admin_port: AdminPort, body: bytes) -> None:
    answer = await admin_port.send(CREATE_TASK, body)

    assert (answer.status, answer.code()) == (422, "invalid_task")
    assert answer.body["detail"]
    assert admin_port.service.calls == []


@pytest.mark.fault("F14")
async def test_every_problem_of_a_task_is_told_by_itself_and_in_the_detail(admin_port: AdminPort) -> None:
    body = b"[task]\nname = 'x'\npopulation = 'en'\n[round]\ngaol = 4\nmode = 'asink'\n"

    answer = await admin_port.send(CREATE_TASK, body)
    one = await admin_port.send(CREATE_TASK, b"[task")

    assert answer.body["problems"] == [
        "round: unknown field `gaol`; did you mean goal.",
        "round.mode: Not one of the values that are taken: sync, async.",
    ]
    assert answer.body["detail"] == " ".join(answer.body["problems"])
    assert one.body["problems"] == [one.body["detail"]]


@pytest.mark.fault("F7")
async def test_a_byte_order_mark_is_no_part_of_a_task(admin_port: AdminPort) -> None:
    await admin_port.send(CREATE_TASK, codecs.BOM_UTF8 + TUTORIAL_TASK.read_bytes())

    assert len(admin_port.service.calls) == 1


@pytest.mark.parametrize("name", ["no spaces", "-first", "x" * 65, "sl%2Fash", "%C3%A9"])
async def test_a_population_needs_a_plain_name(admin_port: AdminPort, name: str) -> None:
    headers = {"Authorization": f"Bearer {admin_port.token}", "Content-Type": "application/octet-stream"}

    answer = await admin_port.request("PUT", f"/admin/v1/populations/{name}?reason=a+test", b"x", headers)

    assert (answer.status, answer.code()) == (422, "malformed_body")
    assert admin_port.service.calls == []


async def test_a_checkpoint_reaches_the_service_as_it_was_sent(admin_port: AdminPort) -> None:
    answer = await admin_port.send(CREATE_POPULATION, b"checkpoint bytes")

    assert answer.status == 201
    assert admin_port.service.calls == [("create_population", ("en-US", b"checkpoint bytes"))]


@pytest.mark.parametrize("call", ABOUT_A_TASK, ids=lambda call: call.name)
async def test_a_task_that_is_not_there_is_unknown(admin_port: AdminPort, call: AnyCall) -> None:
    headers, body = {"Authorization": f"Bearer {admin_port.token}"}, None
    if issubclass(call.body, ReasonOrder):
        headers["Content-Type"], body = "application/json", b'{"reason": "a test"}'

    answer = await admin_port.request(call.method, call.path.format(task="nobody"), body, headers)

    assert (answer.status, answer.code()) == (404, "task_unknown")


@pytest.mark.fault("F14")
@pytest.mark.parametrize("call", NAMING, ids=lambda call: call.name)
async def test_an_address_with_a_control_character_asks_the_database_nothing(
    admin_port: AdminPort, call: AnyCall
) -> None:
    path = call.path.format_map(dict.fromkeys(PATH_PARAMS, "a%00b"))
    headers = {"Authorization": f"Bearer {admin_port.token}"}

    answer = await admin_port.request(call.method, path, None, headers)

    assert (answer.status, answer.code()) == (404, "not_found")
    assert admin_port.service.calls == []


@pytest.mark.parametrize(
    "call",
    [call for call in WITHOUT_BODY if call.role is not None and call not in tokens.CALLS],
    ids=lambda call: call.name,
)
async def test_an_unexpected_failure_is_an_incident(admin_port: AdminPort, call: AnyCall) -> None:
    admin_port.service.failure_of_all = RuntimeError("secret detail")

    answer = await admin_port.send(call)

    assert (answer.status, answer.code()) == (500, "internal")
    assert "secret detail" not in str(answer.body)


@every
async def test_another_method_is_told_which_are_taken(admin_port: AdminPort, call: AnyCall) -> None:
    answer = await admin_port.request("OPTIONS", path_of(call))

    assert (answer.status, answer.code()) == (405, "method_not_allowed")
    assert call.method in answer.headers["Allow"].split(", ")


@pytest.mark.parametrize("path", ["/", "/admin", "/admin/v1/round", "/v1/devices"])
async def test_an_unknown_address_is_a_problem_too(admin_port: AdminPort, path: str) -> None:
    answer = await admin_port.request("GET", path)

    assert (answer.status, answer.code()) == (404, "not_found")


@every
async def test_a_server_that_is_not_ready_takes_no_calls(admin_port: AdminPort, call: AnyCall) -> None:
    admin_port.readiness.state = ServerState.STOPPING

    answer = await admin_port.send(call)

    assert (answer.status, answer.code()) == (503, "not_ready")
