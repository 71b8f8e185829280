"""The same endpoints without sockets, on a clock that its caller moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from keyflock_server.bootstrap import build_socketless_server
from keyflock_server.data_folder import DataFolder
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    CheckInAnswer,
    Enrolment,
    EnrolRequest,
    Receipt,
    Report,
)
from keyflock_server.protocol.problems import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.rounds.conftest import TinyTask

    from keyflock_server.runtime.socketless_server import SocketlessServer


@dataclass
class SocketlessHarness:
    """An embedded server and its clock."""

    exchange: SocketlessServer
    tiny_task: TinyTask
    now: datetime = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

    async def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        await self.exchange.tick()

    async def operate(self, method: str, path: str, body: bytes = b"", kind: str = "") -> Response:
        headers = {"Authorization": f"Bearer {self.exchange.admin_token}", "Content-Type": kind}
        return await self.exchange.send(Request(method, f"/admin/v1/{path}", headers, body))

    async def send(self, call: calls.Call, message: msgspec.Struct, *tokens: str, **parts: str) -> Response:
        headers = {"Content-Type": "application/msgpack"}
        names = ("Authorization", "Keyflock-Assignment")
        headers |= dict(zip(names, tokens, strict=False))
        return await self.exchange.send(
            Request(call.method, call.path.format_map(parts), headers, wire.encode(message))
        )

    async def phone(self) -> tuple[str, Assignment]:
        enrolled = await self.send(
            calls.ENROL, EnrolRequest(protocol=1, population="en-US", app_build=1, locale="en-US")
        )
        bearer = f"Bearer {wire.decode(enrolled.body, Enrolment).token}"
        answer = await self.send(
            calls.CHECK_IN, CheckIn(protocol=1, app_build=1, locale="en-US", examples=9), bearer
        )
        work: CheckInAnswer = wire.decode(answer.body, CheckInAnswer)  # type: ignore[arg-type]  # a union of types
        assert isinstance(work, Assignment)
        return bearer, work

    async def report(self, bearer: str, work: Assignment, delta: bytes) -> Response:
        return await self.send(
            calls.REPORT, Report(delta=delta, examples=5), bearer, work.token, assignment=work.id
        )


@pytest.fixture
async def virtual(tmp_path: Path, tiny_task: TinyTask) -> AsyncIterator[SocketlessHarness]:
    harness: SocketlessHarness
    exchange = build_socketless_server(tmp_path, lambda: harness.now)
    harness = SocketlessHarness(exchange, tiny_task)
    created = await harness.operate(
        "PUT", "populations/en-US?reason=a+test", tiny_task.checkpoint, "application/octet-stream"
    )
    assert created.status == 201, created.body
    assert (
        await harness.operate("POST", "tasks?reason=a+test", tiny_task.task.encode(), "application/toml")
    ).status == 201
    await harness.later(1.0)
    yield harness
    await exchange.close()


async def test_a_round_in_virtual_time_makes_the_next_version(virtual: SocketlessHarness) -> None:
    phones = [await virtual.phone() for _ in range(4)]

    first = [await virtual.report(bearer, work, virtual.tiny_task.delta(work)) for bearer, work in phones]
    for _ in range(5):
        await virtual.later(1.0)
    second = [await virtual.report(bearer, work, virtual.tiny_task.delta(work)) for bearer, work in phones]
    rounds = msgspec.json.decode((await virtual.operate("GET", "rounds?task=next-word")).body)["items"]

    assert {wire.decode(one.body, Problem).code for one in first if one.status != 200} <= {"report_pending"}
    assert [wire.decode(one.body, Receipt).duplicate for one in second] == [True] * 4
    assert (rounds[-1]["counted"], rounds[-1]["result_version"]) == (4, 1)


async def test_time_passes_for_tokens_too(virtual: SocketlessHarness) -> None:
    bearer, work = await virtual.phone()

    virtual.now += timedelta(days=2)
    answer = await virtual.report(bearer, work, b"")

    assert wire.decode(answer.body, Problem).code == "token_expired"


async def test_a_closed_server_takes_no_calls_and_its_folder_is_free(
    virtual: SocketlessHarness, tmp_path: Path
) -> None:
    await virtual.exchange.close()

    answer = await virtual.operate("GET", "tasks")

    assert answer.status == 503
    DataFolder.open(tmp_path).release()


async def test_a_cohort_is_previewed_before_a_task_is_created_with_it(virtual: SocketlessHarness) -> None:
    path, kind = "populations/en-US/cohort-preview", "application/json"
    for tier in (1, 2, 3):
        request = EnrolRequest(protocol=1, population="en-US", app_build=412, locale="en-US", tier=tier)
        await virtual.send(calls.ENROL, request)

    preview = await virtual.operate("POST", path, b'{"cohort": "tier >= 2"}', kind)
    bad = await virtual.operate("POST", path, b'{"cohort": "tier >= "}', kind)
    nowhere = await virtual.operate("POST", "populations/de/cohort-preview", b'{"cohort": "tier == 1"}', kind)

    counts = msgspec.json.decode(preview.body)
    assert (preview.status, counts["enrolled"], counts["matching"], counts["active"]) == (200, 3, 2, 0)
    problem = msgspec.json.decode(bad.body, type=Problem)
    assert (bad.status, problem.code, problem.fault) == (422, "invalid_cohort", "operator")
    assert problem.detail == "At position 9: expected a number, found the end."
    assert (nowhere.status, msgspec.json.decode(nowhere.body)["code"]) == (404, "population_unknown")


@pytest.mark.fault("D12")
async def test_a_network_that_enrols_too_many_is_told_when_to_come_and_its_phones_go_on_refreshing(
    tmp_path: Path, tiny_task: TinyTask
) -> None:
    settings: dict[str, Any] = {"max_enrolments_per_block_per_hour": 3, "trusted_proxies": "10.0.0.0/8"}
    harness: SocketlessHarness
    exchange = build_socketless_server(tmp_path, lambda: harness.now, **settings)
    harness = SocketlessHarness(exchange, tiny_task)
    await harness.operate(
        "PUT", "populations/en-US?reason=a+test", tiny_task.checkpoint, "application/octet-stream"
    )
    message = wire.encode(EnrolRequest(protocol=1, population="en-US", app_build=1, locale="en-US"))

    async def enrol(phone: str, token: str = "") -> Response:
        headers = {"Content-Type": "application/msgpack", "X-Forwarded-For": f"198.51.100.1, {phone}"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        return await exchange.send(Request("POST", "/v1/devices", headers, message, peer="10.0.0.1"))

    first = [await enrol(f"203.0.113.{number}") for number in range(5)]
    other = await enrol("203.0.114.1")
    refreshed = await enrol("203.0.113.1", wire.decode(first[0].body, Enrolment).token)
    harness.now += timedelta(hours=1)
    later = await enrol("203.0.113.9")
    await exchange.close()

    assert [one.status for one in first] == [200, 200, 200, 429, 429]
    assert wire.decode(first[3].body, Problem).code == "too_many_requests"
    assert first[3].headers["retry-after"] == "1200"
    assert (other.status, refreshed.status, later.status) == (200, 200, 200)
