"""The rest of what the phones' port promises: addresses, caching, probes, overload, failures."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
from typing import TYPE_CHECKING

import msgspec
import pytest

from keyflock_server.http.readiness import ServerState
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import CALLS, Call
from keyflock_server.protocol.messages import Refusal
from keyflock_server.protocol.problems import ProblemCode
from keyflock_server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.http.conftest import SdkPort

every = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged, at the most talkative level."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs("json", "DEBUG", stream)
    yield stream
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/devices", "/v1/models/", "/v1/models/7/x", "/admin/v1/tasks"]
)
async def test_an_unknown_address_is_a_problem_too(sdk_port: SdkPort, path: str) -> None:
    answer = await sdk_port.request("GET", path)

    assert (answer.status, answer.code()) == (404, ProblemCode.NOT_FOUND)


@every
async def test_another_method_is_told_which_are_taken(sdk_port: SdkPort, call: Call) -> None:
    path = call.path.format(version=7, population="en-US", assignment="a-1")

    answer = await sdk_port.request("PATCH", path, headers=sdk_port.headers(call))

    assert (answer.status, answer.code()) == (405, ProblemCode.METHOD_NOT_ALLOWED)
    assert answer.headers["Allow"].split(", ") == [other.method for other in CALLS if other.path == call.path]


async def test_a_refusal_is_an_answer_and_not_an_error(sdk_port: SdkPort) -> None:
    answer = await sdk_port.send(calls.CHECK_IN)

    refusal = msgspec.msgpack.decode(answer.body, type=Refusal)
    assert (answer.status, refusal.reason) == (200, "not_sampled")
    assert answer.headers["Content-Type"] == "application/msgpack"
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_model_is_immutable_and_known_by_its_digest(sdk_port: SdkPort) -> None:
    first = await sdk_port.send(calls.MODEL)
    etag = first.headers["ETag"]

    again = await sdk_port.send(calls.MODEL, If_None_Match=f'"other", W/{etag}')
    changed = await sdk_port.send(calls.MODEL, If_None_Match='"other"')

    assert (first.status, first.body) == (200, sdk_port.model)
    assert etag == f'"{hashlib.sha256(sdk_port.model).hexdigest()}"'
    assert first.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert first.headers["Content-Type"] == "application/vnd.keyflock.model"
    assert (again.status, again.body) == (304, b"")
    assert changed.status == 200


async def test_a_released_model_has_an_address_and_a_tag_of_its_own(sdk_port: SdkPort) -> None:
    trained_from = await sdk_port.send(calls.MODEL)
    served = await sdk_port.send(calls.RELEASED_MODEL)

    again = await sdk_port.send(calls.RELEASED_MODEL, If_None_Match=served.headers["ETag"])

    assert served.body != trained_from.body
    assert served.headers["ETag"] == f'"{hashlib.sha256(served.body).hexdigest()}"'
    assert served.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize("version", ["8", "-1", "latest", "7.0", "%37%00", "9" * 4000, "٧"])
async def test_a_version_that_is_not_there_is_unknown(sdk_port: SdkPort, version: str) -> None:
    answer = await sdk_port.request("GET", f"/v1/models/{version}", headers=sdk_port.headers(calls.MODEL))

    assert (answer.status, answer.code()) == (404, ProblemCode.MODEL_UNKNOWN)


async def test_a_query_is_ignored(sdk_port: SdkPort) -> None:
    answer = await sdk_port.request("GET", "/v1/models/7?base=6", headers=sdk_port.headers(calls.MODEL))

    assert answer.status == 200


@every
async def test_an_unexpected_failure_is_an_incident_that_tells_the_phone_nothing(
    sdk_port: SdkPort, call: Call, log: io.StringIO
) -> None:
    sdk_port.service.failure_of_all = RuntimeError("secret detail of the machine")

    answer = await sdk_port.send(call)

    assert (answer.status, answer.code()) == (500, ProblemCode.INTERNAL)
    assert b"secret detail" not in answer.body
    incident = answer.problem().detail.split()[1].rstrip(";")
    logged = [json.loads(line) for line in log.getvalue().splitlines() if "request failed" in line]
    assert [(line["incident"], line["call"]) for line in logged] == [(incident, call.name)]
    assert logged[0]["error"] == "RuntimeError"
    assert "conftest.py" in logged[0]["where"]
    assert "secret detail" not in log.getvalue()


@every
@pytest.mark.parametrize("stage", [ServerState.STARTING, ServerState.STOPPING])
async def test_a_server_that_is_not_ready_takes_no_calls_and_says_so(
    sdk_port: SdkPort, call: Call, stage: ServerState
) -> None:
    sdk_port.readiness.state = stage

    answer, ready, healthy = (
        await sdk_port.send(call),
        await sdk_port.request("GET", "/readyz"),
        await sdk_port.request("GET", "/healthz"),
    )

    assert (answer.status, answer.code()) == (503, ProblemCode.NOT_READY)
    assert answer.headers["Retry-After"] == "2"
    assert (ready.status, ready.body) == (503, f"{stage}\n".encode())
    assert healthy.status == 200


async def test_a_body_that_outlives_the_server_is_not_acted_upon(sdk_port: SdkPort) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        body = sdk_port.good_body(calls.REPORT)
        yield body[:5]
        arrived.set()
        await go_on.wait()
        yield body[5:]

    sending = asyncio.create_task(sdk_port.send(calls.REPORT, slow()))
    await arrived.wait()
    await sdk_port.request("GET", "/healthz")
    sdk_port.readiness.state = ServerState.STOPPING
    go_on.set()
    answer = await sending

    assert answer.code() is ProblemCode.NOT_READY
    assert sdk_port.service.calls == []


@pytest.mark.parametrize("limits", [{"max_bodies": 1}], indirect=True)
async def test_more_bodies_than_fit_are_told_to_come_back(sdk_port: SdkPort) -> None:
    sdk_port.service.gate.clear()
    waiting = asyncio.create_task(sdk_port.send(calls.REPORT))
    await sdk_port.service.called.wait()

    refused = await sdk_port.send(calls.REPORT)
    sdk_port.service.gate.set()
    first = await waiting
    third = await sdk_port.send(calls.REPORT)

    assert (refused.status, refused.code()) == (503, ProblemCode.OVERLOADED)
    assert refused.headers["Retry-After"] == "5"
    assert (first.status, third.status) == (200, 200)


@pytest.mark.parametrize("limits", [{"max_bytes": 100_000}], indirect=True)
async def test_more_bytes_than_fit_are_told_to_come_back(sdk_port: SdkPort) -> None:
    refused = await sdk_port.send(calls.REPORT, bytes(200_000))
    taken = await sdk_port.send(calls.REPORT)

    assert (refused.status, refused.code()) == (503, ProblemCode.OVERLOADED)
    assert taken.status == 200


async def test_the_figures_tell_what_happened(sdk_port: SdkPort) -> None:
    await sdk_port.send(calls.CHECK_IN)
    await sdk_port.send(calls.REPORT)
    await sdk_port.send(calls.REPORT, Authorization=None)

    figures = (await sdk_port.request("GET", "/metrics")).body.decode()

    assert 'keyflock_check_ins_total{outcome="not_sampled"} 1.0' in figures
    assert 'keyflock_reports_total{outcome="counted"} 1.0' in figures
    assert 'keyflock_report_delta_bytes_count{network="unmetered"} 1.0' in figures
    assert 'keyflock_problems_total{call="report",code="token_missing"} 1.0' in figures
    assert 'keyflock_request_duration_seconds_count{call="report"} 2.0' in figures


@every
async def test_no_token_and_no_body_ever_reaches_the_log(
    sdk_port: SdkPort, call: Call, log: io.StringIO
) -> None:
    secrets = [sdk_port.device_token(), sdk_port.assignment_token(), "delta bytes", "SECRETBODY"]

    await sdk_port.send(call)
    await sdk_port.send(call, b"SECRETBODY" * 3)
    await sdk_port.send(call, Authorization=f"Basic {sdk_port.device_token()}")
    await sdk_port.send(call, Keyflock_Assignment=sdk_port.assignment_token() + "x")
    sdk_port.service.failure_of_all = RuntimeError(f"Bearer {sdk_port.device_token()}")
    await sdk_port.send(call)

    logged = log.getvalue()
    assert "request failed" in logged
    assert [secret for secret in secrets if secret in logged] == []


async def test_the_server_does_not_name_its_libraries(sdk_port: SdkPort) -> None:
    for path in ("/healthz", "/nowhere", "/v1/models/7"):
        assert (await sdk_port.request("GET", path)).headers["Server"] == "keyflock"
