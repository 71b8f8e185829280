"""An operator's decisions on what became of a model: each carries its reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.http.operators.conftest import NOW

from keyflock_server.protocol.operator.populations import ROLL_BACK, RollbackOrder
from keyflock_server.protocol.operator.rounds import ACCEPT_ROUND, DISCARD_ROUND

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

    from keyflock_server.protocol.operator.call import AnyCall

DECISIONS = (ACCEPT_ROUND, DISCARD_ROUND)


@pytest.mark.fault("D8")
@pytest.mark.parametrize("call", DECISIONS, ids=lambda call: call.name)
async def test_a_decision_on_a_held_round_reaches_the_service_with_its_reason(
    admin_port: AdminPort, call: AnyCall
) -> None:
    answer = await admin_port.send(call, b'{"reason": "the rate was a slip"}')

    assert (answer.status, answer.body["id"]) == (200, "next-word-1")
    assert admin_port.service.calls == [(call.name, "next-word-1")]
    (audit,) = admin_port.service.audits
    assert (audit.operator, audit.role, audit.reason) == ("admin", "admin", "the rate was a slip")
    assert audit.action == {"accept_round": "round.accept", "discard_round": "round.discard"}[call.name]
    assert audit.at == NOW


@pytest.mark.fault("D9")
async def test_a_rollback_reaches_the_service_with_its_version_and_reason(admin_port: AdminPort) -> None:
    answer = await admin_port.send(ROLL_BACK, b'{"to": 0, "reason": "worse"}')

    assert (answer.status, answer.body["name"]) == (200, "en-US")
    assert admin_port.service.calls == [("roll_back", ("en-US", RollbackOrder(to=0, reason="worse")))]


@pytest.mark.fault("D8")
@pytest.mark.parametrize("call", [*DECISIONS, ROLL_BACK], ids=lambda call: call.name)
@pytest.mark.parametrize(
    "order",
    [
        {},
        {"reason": ""},
        {"reason": "x" * 301},
        {"reason": 7},
        {"reason": "worse", "force": True},
        {"to": -1, "reason": "worse"},
        {"to": 2**31, "reason": "worse"},
        [],
    ],
)
async def test_an_order_without_a_plain_reason_is_refused(
    admin_port: AdminPort, call: AnyCall, order: object
) -> None:
    answer = await admin_port.send(call, json.dumps(order).encode())

    assert (answer.status, answer.code()) == (422, "malformed_body")
    assert admin_port.service.calls == []
