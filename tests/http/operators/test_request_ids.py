"""Operators get the id of each of their requests, by which the log has it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from keyflock_server.protocol.operator.table import OPERATOR_CALLS

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort


@pytest.mark.parametrize("path", ["/admin/v1/tasks", "/nowhere"])
async def test_every_response_has_an_id_of_its_own_and_not_the_callers(
    admin_port: AdminPort, path: str
) -> None:
    headers = {"Authorization": f"Bearer {admin_port.token}", "X-Request-Id": "alice"}

    one, other = [(await admin_port.request("GET", path, headers=headers)).headers for _ in range(2)]

    assert len(one["X-Request-Id"]) == 12
    assert one["X-Request-Id"] != other["X-Request-Id"]


async def test_what_an_operator_did_is_logged_by_that_id_and_without_a_devices(
    admin_port: AdminPort, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (revoke,) = [call for call in OPERATOR_CALLS if call.name == "revoke_device"]

    answer = await admin_port.send(revoke, b'{"reason": "lost"}' if revoke.max_body_bytes else None)

    assert answer.status in {200, 204}
    (record,) = [record for record in caplog.records if record.getMessage() == "operator call"]
    fields = vars(record)
    assert fields["request"] == answer.headers["X-Request-Id"]
    assert fields["call"] == "revoke_device"
    assert "device" not in fields
