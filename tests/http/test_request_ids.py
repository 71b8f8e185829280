"""A request's lines have the server's own id, never what a caller claims; phones hear it as an incident."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.http.conftest import CLAIMS
from tests.http.test_endpoints import log

from keyflock_server.protocol import calls

if TYPE_CHECKING:
    import io

    from tests.http.conftest import SdkPort

__all__ = ["log"]  # pytest finds it here
CLAIMED = "alice-0123456789"


def lines(log: io.StringIO, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == event]


async def test_a_failed_report_is_logged_with_its_round_and_the_incident_that_the_phone_heard(
    sdk_port: SdkPort, log: io.StringIO
) -> None:
    sdk_port.service.failure_of_all = RuntimeError("of the machine")

    answer = await sdk_port.send(calls.REPORT)

    (line,) = lines(log, "request failed")
    assert line["request"] == line["incident"]
    assert line["request"] in answer.problem().detail
    assert (line["round_id"], line["task"]) == (CLAIMS.round, CLAIMS.task)


async def test_an_assignment_whose_signature_is_wrong_names_no_round(
    sdk_port: SdkPort, log: io.StringIO
) -> None:
    forged = sdk_port.assignment_token()[:-3] + "AAA"

    await sdk_port.send(calls.REPORT, Keyflock_Assignment=forged)

    (line,) = lines(log, "refused")
    assert "round_id" not in line
    assert "task" not in line
    assert CLAIMS.round not in log.getvalue()


async def test_what_a_caller_claims_to_be_its_request_id_is_not_read(
    sdk_port: SdkPort, log: io.StringIO
) -> None:
    answer = await sdk_port.send(calls.CHECK_IN, Authorization=None, X_Request_Id=CLAIMED)

    assert "X-Request-Id" not in answer.headers
    assert CLAIMED not in log.getvalue()
    assert len(lines(log, "refused")[0]["request"]) == 12


async def test_two_requests_of_one_connection_have_two_ids(sdk_port: SdkPort, log: io.StringIO) -> None:
    await sdk_port.send(calls.CHECK_IN, Authorization=None)
    await sdk_port.send(calls.CHECK_IN, Authorization=None)

    one, other = (line["request"] for line in lines(log, "refused"))
    assert one != other
