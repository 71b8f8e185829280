"""Changes on a condition, creations that are repeated, and lists that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.http.operators.conftest import NOW

from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.operator.populations import CREATE_POPULATION
from keyflock_server.protocol.operator.tasks import TASK
from keyflock_server.protocol.operator.versions import PIN_VERSION, VERSION
from keyflock_server.storage.interfaces.listings import TaskPlace

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

REASON = b'{"reason": "the best so far"}'


async def test_a_resource_with_a_revision_has_it_as_its_etag(admin_port: AdminPort) -> None:
    answer = await admin_port.send(VERSION)

    assert (answer.headers["ETag"], answer.body["revision"]) == ('"r7"', "r7")


async def test_a_change_is_made_if_nobody_was_faster(admin_port: AdminPort) -> None:
    same = await admin_port.send(PIN_VERSION, REASON, If_Match='"r7"')
    any_of_two = await admin_port.send(PIN_VERSION, REASON, If_Match='"r6", "r7"')
    whatever = await admin_port.send(PIN_VERSION, REASON, If_Match="*")

    assert [answer.status for answer in (same, any_of_two, whatever)] == [200, 200, 200]


async def test_a_change_of_what_somebody_else_has_changed_is_refused(admin_port: AdminPort) -> None:
    answer = await admin_port.send(PIN_VERSION, REASON, If_Match='"r6"')

    assert (answer.status, answer.code()) == (412, "precondition_failed")
    assert "r7" in answer.body["detail"]
    assert admin_port.service.calls == []


async def test_a_condition_is_not_ignored_where_none_is_known(admin_port: AdminPort) -> None:
    answer = await admin_port.send(TASK, If_Match='"1"')

    assert (answer.status, answer.code()) == (412, "precondition_failed")


async def test_a_repeated_creation_reaches_the_service_once(admin_port: AdminPort) -> None:
    first = await admin_port.send(CREATE_POPULATION, b"checkpoint", Idempotency_Key="mine")
    again = await admin_port.send(CREATE_POPULATION, b"checkpoint", Idempotency_Key="mine")
    other = await admin_port.send(CREATE_POPULATION, b"another", Idempotency_Key="mine")

    assert (first.status, again.status, again.body) == (201, 201, first.body)
    assert (other.status, other.code()) == (409, "conflict")
    assert [name for name, _ in admin_port.service.calls] == ["create_population"]


async def test_the_next_of_a_page_begins_the_page_after_it(admin_port: AdminPort) -> None:
    headers = {"Authorization": f"Bearer {admin_port.token}"}
    first = await admin_port.request("GET", "/admin/v1/tasks?limit=1", None, headers)

    await admin_port.request("GET", f"/admin/v1/tasks?limit=1&after={first.body['next']}", None, headers)

    places = [argument[:2] for _, argument in admin_port.service.calls if isinstance(argument, tuple)]
    assert places == [(None, 1), (TaskPlace(NOW, TaskName("next-word")), 1)]


async def test_a_cursor_of_another_list_is_refused(admin_port: AdminPort) -> None:
    headers = {"Authorization": f"Bearer {admin_port.token}"}
    tasks = await admin_port.request("GET", "/admin/v1/tasks", None, headers)

    answer = await admin_port.request(
        "GET", f"/admin/v1/populations?after={tasks.body['next']}", None, headers
    )

    assert (answer.status, answer.code()) == (422, "malformed_query")
