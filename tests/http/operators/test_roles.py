"""Who may make which call: the role of the token is checked before anything of the body is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.http.operators.conftest import NOW

from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.http.operators.authentication import TokenAuthenticator
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.operators import ROOT
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.operator.table import OPERATOR_CALLS
from keyflock_server.protocol.operator.tasks import CANCEL_TASK, TASK
from keyflock_server.protocol.roles import Role

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

    from keyflock_server.protocol.operator.call import AnyCall

TOO_WEAK = [
    (call, role)
    for call in OPERATOR_CALLS
    for role in Role
    if call.role is not None and not role.includes(call.role)
]


@pytest.mark.parametrize(("call", "role"), TOO_WEAK, ids=[f"{call.name}-{role}" for call, role in TOO_WEAK])
async def test_a_token_of_a_weaker_role_is_refused_before_the_body_is_read(
    admin_port: AdminPort, call: AnyCall, role: Role
) -> None:
    answer = await admin_port.send(
        call,
        b"never read" if call.max_body_bytes else None,
        Authorization=f"Bearer the-{role}-token",
        Content_Type="text/nonsense" if call.max_body_bytes else None,
    )

    assert (answer.status, answer.code()) == (403, "role_too_weak")
    assert str(call.role) in answer.body["detail"]
    assert admin_port.service.calls == []


@pytest.mark.parametrize(
    "call", [call for call in OPERATOR_CALLS if call.role is not None], ids=lambda call: call.name
)
async def test_the_weakest_role_that_suffices_is_let_through(admin_port: AdminPort, call: AnyCall) -> None:
    answer = await admin_port.send(call, Authorization=f"Bearer the-{call.role}-token")

    assert answer.status not in {401, 403}


async def test_a_token_that_is_too_weak_is_no_guess_and_is_answered_at_once(admin_port: AdminPort) -> None:
    admin_port.sleep.gate.clear()

    answer = await admin_port.send(CANCEL_TASK, Authorization="Bearer the-viewer-token")

    assert answer.code() == "role_too_weak"
    assert admin_port.sleep.waiting == 0


def test_a_role_includes_itself_and_the_weaker_ones() -> None:
    included = {role: [other for other in Role if role.includes(other)] for role in Role}

    assert included == {
        Role.VIEWER: [Role.VIEWER],
        Role.OPERATOR: [Role.VIEWER, Role.OPERATOR],
        Role.ADMIN: [Role.VIEWER, Role.OPERATOR, Role.ADMIN],
    }


async def test_the_first_token_is_that_of_root_and_needs_no_store() -> None:
    unreachable: Any = None
    known = TokenAuthenticator("secret", OperatorTokens(unreachable, ApiTokens(b"k" * 32), lambda: NOW))

    assert await known.operator("secret") is ROOT
    assert [await known.operator(wrong) for wrong in ("", "secre", "secret2", "s\u00e9cret", "\udcff")] == [
        None
    ] * 5


def test_every_call_needs_exactly_one_handler() -> None:
    async def answer(_request: object) -> Response:
        return Response(200, {}, b"")

    handlers = Handlers([TASK, CANCEL_TASK])
    handlers.add(TASK, answer)

    with pytest.raises(ValueError, match="two handlers"):
        handlers.add(TASK, answer)
    with pytest.raises(ValueError, match="cancel_task"):
        handlers.require_all()
