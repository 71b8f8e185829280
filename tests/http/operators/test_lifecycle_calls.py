"""Orders about tasks, rounds and populations arrive with their values, and only if they are whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from msgspec import UNSET

from keyflock_server.protocol.operator.populations import ARCHIVE_POPULATION
from keyflock_server.protocol.operator.rounds import ABANDON_ROUND, CLOSE_ROUND
from keyflock_server.protocol.operator.tasks import (
    ARCHIVE_TASK,
    CHANGE_TASK,
    CREATE_TASK,
    PAUSE_TASK,
    TASK_HISTORY,
    UNARCHIVE_TASK,
)

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

    from keyflock_server.protocol.operator.call import AnyCall


async def test_a_pause_may_have_an_end(admin_port: AdminPort) -> None:
    body = b'{"reason": "night", "until": "2026-03-02T08:00:00+02:00"}'

    answer = await admin_port.send(PAUSE_TASK, body)

    assert answer.status == 200
    assert admin_port.service.until == datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
    assert (admin_port.service.audits[0].action, admin_port.service.audits[0].reason) == (
        "task.pause",
        "night",
    )


async def test_an_instant_without_a_time_zone_is_refused(admin_port: AdminPort) -> None:
    answer = await admin_port.send(PAUSE_TASK, b'{"reason": "night", "until": "2026-03-02T08:00:00"}')

    assert (answer.status, answer.code()) == (422, "malformed_body")
    assert "until" in answer.body["detail"]


async def test_a_change_carries_what_is_given_and_nothing_else(admin_port: AdminPort) -> None:
    answer = await admin_port.send(CHANGE_TASK, b'{"reason": "more phones", "goal": 40, "minimum": null}')

    given = {name: value for name, value in admin_port.service.values.items() if value is not UNSET}
    assert answer.status == 200
    assert given == {"goal": 40, "minimum": None}


@pytest.mark.parametrize(
    "body",
    [
        b'{"goal": 40}',
        b'{"reason": "x", "goal": 0}',
        b'{"reason": "x", "deadline_s": -1}',
        b'{"reason": "x", "min_flush_clients": 1}',
        b'{"reason": "x", "goal": "many"}',
    ],
)
async def test_a_change_that_makes_no_sense_by_itself_is_refused(admin_port: AdminPort, body: bytes) -> None:
    answer = await admin_port.send(CHANGE_TASK, body)

    assert (answer.status, answer.code()) == (422, "malformed_body")
    assert admin_port.service.calls == []


@pytest.mark.parametrize(
    "call",
    [CHANGE_TASK, PAUSE_TASK, ARCHIVE_TASK, UNARCHIVE_TASK, ARCHIVE_POPULATION],
    ids=lambda one: one.name,
)
@pytest.mark.parametrize(("tag", "status"), [('"7"', 200), ('"6"', 412), ("*", 200)])
async def test_a_change_that_was_decided_on_another_revision_is_refused(
    admin_port: AdminPort, call: AnyCall, tag: str, status: int
) -> None:
    answer = await admin_port.send(call, If_Match=tag)

    assert answer.status == status
    assert bool(admin_port.service.calls) == (status == 200)


@pytest.mark.parametrize(
    ("body", "drops"), [(b'{"reason": "x"}', False), (b'{"reason": "x", "drop": true}', True)]
)
async def test_an_abandoned_rounds_reports_are_dropped_only_if_that_is_asked_for(
    admin_port: AdminPort, body: bytes, drops: bool
) -> None:
    await admin_port.send(ABANDON_ROUND, body)

    assert admin_port.service.drops is drops
    assert [one.action for one in admin_port.service.audits] == ["round.abandon"]


async def test_a_round_is_closed_with_a_reason(admin_port: AdminPort) -> None:
    refused = await admin_port.send(CLOSE_ROUND, b"{}")
    closed = await admin_port.send(CLOSE_ROUND)

    assert (refused.status, closed.status) == (422, 200)
    assert [one.action for one in admin_port.service.audits] == ["round.close"]


async def test_a_history_has_as_many_entries_as_are_asked_for(admin_port: AdminPort) -> None:
    answer = await admin_port.send(TASK_HISTORY)
    too_many = await admin_port.request(
        "GET",
        "/admin/v1/tasks/next-word/history?limit=1001",
        headers={"Authorization": f"Bearer {admin_port.token}"},
    )

    assert [one["what"] for one in answer.body["items"]] == ["task.pause"]
    assert too_many.code() == "malformed_query"


async def test_a_task_may_be_sent_in_json(admin_port: AdminPort) -> None:
    body = b'{"task": {"name": "t", "population": "en-US"}, "round": {"goal": 10}}'

    answer = await admin_port.send(CREATE_TASK, body, Content_Type="application/json")

    assert answer.status == 201
    assert admin_port.service.calls[0][1].name == "t"  # type: ignore[attr-defined]  # it is a task
