"""A phone whose reports are refused, over both ports of a real server: counted, kept out, let in again."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.messages import Offer, Refusal, RefusalReason, Report
from keyflock_server.protocol.problems import Problem

if TYPE_CHECKING:
    from tests.http.rounds.conftest import CallAnswer, RoundPhone, RunningServer

#: One refused report is enough, so that the test needs one round.
STRICT = """
[quarantine]
refusals = 1
duration_s = 3600.0
"""


async def strict_site(server: RunningServer) -> None:
    status, answer = await server.create_population()
    assert status == 201, answer
    status, answer = await server.create_task(server.task + STRICT)
    assert status == 201, answer
    async with asyncio.timeout(120.0):
        while not (await server.operate("GET", "rounds?task=next-word"))[1]["items"]:
            pass


async def quarantined_phone(server: RunningServer) -> tuple[RoundPhone, CallAnswer]:
    """A phone that claims more examples than it may have used, and what it heard."""
    await strict_site(server)
    phone = await server.phone()
    assignment = await phone.assigned()
    return phone, await phone.report(assignment, server.delta(assignment), examples=100_000)


async def listed(server: RunningServer) -> list[dict[str, Any]]:
    status, answer = await server.operate("GET", "populations/en-US/devices")
    assert status == 200, answer
    devices: list[dict[str, Any]] = answer["items"]
    return devices


async def test_a_lie_about_examples_is_refused_counted_and_kept_out(bare_server: RunningServer) -> None:
    phone, refused = await quarantined_phone(bare_server)

    answer = await phone.check_in()
    (device,) = await listed(bare_server)

    assert (refused.status, refused.code()) == (422, "too_many_examples")
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.QUARANTINED
    assert 3_590.0 < answer.return_window.min_s <= 3_600.0
    assert device["is_quarantined"]
    assert device["reason"] == "Refused reports in 1 of its rounds within 7 days: too_many_examples."


async def test_the_rounds_view_and_the_metrics_count_the_verdict(bare_server: RunningServer) -> None:
    await quarantined_phone(bare_server)

    async with asyncio.timeout(120.0):
        while not (round_ := (await bare_server.operate("GET", "rounds/next-word-1"))[1])["verdicts"]:
            pass
    async with bare_server.session.get(f"{bare_server.addresses.admin_url}/metrics") as response:
        exposition = await response.text()

    assert round_["verdicts"] == {"too_many_examples": 1}
    assert 'keyflock_report_verdicts_total{verdict="too_many_examples"} 1.0' in exposition
    assert "keyflock_quarantines_total 1.0" in exposition


async def test_an_operator_keeps_a_device_out_and_lets_it_in_again(server: RunningServer) -> None:
    phone = await server.phone()
    assignment = await phone.assigned()
    (device,) = await listed(server)
    order = json.dumps({"reason": "Sends what no keyboard sends.", "days": 1.5}).encode()

    status, view = await server.operate(
        "POST", f"devices/{device['id']}/quarantine", order, "application/json"
    )
    offered = await phone.send(
        calls.OFFER, Offer(size_bytes=1, model_version=assignment.model_version), assignment
    )
    uploaded = await phone.report(assignment, server.delta(assignment))
    released, after = await server.operate("POST", f"devices/{device['id']}/release", b'{"reason": "a test"}')
    again = await phone.send(
        calls.OFFER, Offer(size_bytes=1, model_version=assignment.model_version), assignment
    )

    assert (status, view["reason"], view["quarantined_by"]) == (
        200,
        "Sends what no keyboard sends.",
        "operator",
    )
    assert [(one.status, one.code()) for one in (offered, uploaded)] == [(403, "quarantined")] * 2
    assert wire.decode(uploaded.body, Problem).retry is None
    assert (released, after["is_quarantined"]) == (200, False)
    assert again.status == 200


async def test_a_quarantined_phone_may_still_ask_to_be_forgotten(bare_server: RunningServer) -> None:
    phone, _ = await quarantined_phone(bare_server)

    answer = await phone.send(calls.FORGET)

    assert answer.status == 200
    assert await listed(bare_server) == []


async def test_a_body_that_cannot_be_read_is_not_held_against_a_device(bare_server: RunningServer) -> None:
    await strict_site(bare_server)
    phone = await bare_server.phone()
    assignment = await phone.assigned()
    headers = {"Authorization": f"Bearer {phone.token}", "Keyflock-Assignment": assignment.token}
    whole = wire.encode(Report(delta=bare_server.delta(assignment), examples=5))

    async with bare_server.session.put(
        f"{bare_server.addresses.sdk_url}/v1/assignments/{assignment.id}/report",
        data=whole[:-7],
        headers={**headers, "Content-Type": "application/msgpack"},
    ) as response:
        assert response.status == 422

    assert not (await listed(bare_server))[0]["is_quarantined"]


async def test_an_order_without_a_reason_is_malformed(server: RunningServer) -> None:
    await server.phone()
    (device,) = await listed(server)

    status, problem = await server.operate(
        "POST", f"devices/{device['id']}/quarantine", b'{"days": 3}', "application/json"
    )

    assert (status, problem["code"]) == (422, "malformed_body")
    assert "reason" in problem["detail"]
