"""The preview of a cohort expression: what the operators' port takes, and what the command asks."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.http.operators.conftest import AdminPort
from typer.testing import CliRunner

from keyflock_server.cli.application import app
from keyflock_server.cli.errors import CommandError
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.populations import PREVIEW_COHORT


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"{}", b'{"cohort": 7}', b'{"cohort": "tier > 1", "limit": 3}', b"\xff", b"[" * 5_000],
)
async def test_a_body_that_is_no_question_is_told_so(admin_port: AdminPort, body: bytes) -> None:
    answer = await admin_port.send(PREVIEW_COHORT, body)

    assert (answer.status, answer.code()) == (422, "malformed_body")
    assert admin_port.service.calls == []


async def test_a_question_goes_to_the_service_as_it_was_asked(admin_port: AdminPort) -> None:
    answer = await admin_port.send(PREVIEW_COHORT, b'{"cohort": "tier >= 2"}')

    assert admin_port.service.calls == [("preview_cohort", (PopulationName("en-US"), "tier >= 2"))]
    assert answer.body == {
        "population": "en-US",
        "cohort": "tier >= 2",
        "enrolled": 10,
        "matching": 4,
        "active": 6,
        "active_matching": 3,
    }


async def test_the_command_refuses_a_bad_expression_before_it_asks_a_server(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["population", "preview", "en", "--cohort", "tier >", "--data-dir", str(tmp_path)]
    )

    assert isinstance(result.exception, CommandError)
    assert str(result.exception) == "--cohort: At position 7: expected a number, found the end."


async def test_the_command_prints_what_the_server_counted(admin_port: AdminPort) -> None:
    words = ["population", "preview", "en-US", "--cohort", "tier >= 2", "--json", "--url", admin_port.url]
    runner = CliRunner(env={"KEYFLOCK_ADMIN_TOKEN": admin_port.token})

    result = await asyncio.to_thread(runner.invoke, app, words)

    assert result.exception is None
    assert json.loads(result.stdout)["active_matching"] == 3
    assert admin_port.service.calls == [("preview_cohort", (PopulationName("en-US"), "tier >= 2"))]
