"""Every call of the table with every kind of token: who is let through, who is not, and what each hears."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from tests.http.operators.conftest import NOW, path_of

from keyflock_server.audit.context import AuditContext
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.operators import ROOT
from keyflock_server.protocol.operator.table import OPERATOR_CALLS
from keyflock_server.protocol.operator.tokens import CREATE_TOKEN, REVOKE_TOKEN, TOKENS, WHO_AM_I, TokenOrder
from keyflock_server.protocol.roles import Role

if TYPE_CHECKING:
    from tests.http.operators.conftest import AdminPort

    from keyflock_server.protocol.operator.call import AnyCall

AUDIT = AuditContext(operator="root", role="admin", reason="A test.", action="token.test", at=NOW)
FOR_OPERATORS = [call for call in OPERATOR_CALLS if call.role is not None]


@dataclass(frozen=True)
class Bearer:
    """A header ``Authorization``, and what its bearer hears: a role, or a problem's code."""

    header: str | None
    expected: Role | str


async def bearers(port: AdminPort) -> dict[str, Bearer]:
    """Create tokens of every kind."""
    texts = {}
    for name, role, lifetime_s in (
        ("viewer", Role.VIEWER, None),
        ("operator", Role.OPERATOR, None),
        ("admin", Role.ADMIN, None),
        ("revoked", Role.ADMIN, None),
        ("expired", Role.ADMIN, 60.0),
    ):
        order = TokenOrder(name=name, role=role, lifetime_s=lifetime_s, reason="A test.")
        created = await port.tokens.create(order, ROOT, audit=AUDIT)
        texts[name] = created.text
        if name == "revoked":
            await port.tokens.revoke(created.token.id, audit=AUDIT)
    right = texts["admin"]
    other = right[:-1] + ("1" if right.endswith("0") else "0")
    port.clock.now = NOW + timedelta(seconds=60)
    return {
        "none": Bearer(None, "token_missing"),
        "another scheme": Bearer(f"Basic {texts['admin']}", "token_invalid"),
        "made up": Bearer(f"Bearer {ApiTokens(b'x' * 32).new().text}", "token_invalid"),
        "another secret": Bearer(f"Bearer {other}", "token_invalid"),
        "expired": Bearer(f"Bearer {texts['expired']}", "token_expired"),
        "revoked": Bearer(f"Bearer {texts['revoked']}", "token_invalid"),
        **{role: Bearer(f"Bearer {texts[role]}", role) for role in Role},
    }


@pytest.mark.parametrize("call", FOR_OPERATORS, ids=lambda call: call.name)
async def test_a_call_is_for_tokens_of_its_role_and_stronger_ones(
    admin_port: AdminPort, call: AnyCall
) -> None:
    assert call.role is not None
    for name, bearer in (await bearers(admin_port)).items():
        admin_port.service.calls.clear()
        answer = await admin_port.send(call, Authorization=bearer.header)

        if not isinstance(bearer.expected, Role):
            assert (answer.status, answer.code()) == (401, bearer.expected), name
            assert admin_port.service.calls == []
        elif bearer.expected.includes(call.role):
            assert answer.status not in {401, 403}, name
        else:
            assert (answer.status, answer.code()) == (403, "role_too_weak"), name
            assert admin_port.service.calls == []


@pytest.mark.parametrize("call", OPERATOR_CALLS, ids=lambda call: call.name)
def test_what_changes_something_is_not_for_viewers(call: AnyCall) -> None:
    reads = {"preview_cohort", "forecast_task"}

    assert call.method == "GET" or call.name in reads or call.role in {Role.OPERATOR, Role.ADMIN}
    assert path_of(call)


async def test_a_token_is_created_used_listed_and_revoked_by_its_admin(admin_port: AdminPort) -> None:
    order = b'{"name": "ci", "role": "viewer", "reason": "The build."}'
    created = await admin_port.send(CREATE_TOKEN, order)
    text, id_ = created.body["text"], created.body["token"]["id"]
    used = await admin_port.send(WHO_AM_I, Authorization=f"Bearer {text}")
    listed = await admin_port.send(TOKENS)
    path = REVOKE_TOKEN.path.format(token_id=id_)
    headers = {"Authorization": f"Bearer {admin_port.token}", "Content-Type": "application/json"}
    revoked = await admin_port.request("POST", path, b'{"reason": "Done."}', headers)
    refused = await admin_port.send(WHO_AM_I, Authorization=f"Bearer {text}")

    assert created.status == 201
    assert used.body == {"name": "ci", "role": "viewer"}
    assert [(one["name"], one["state"], one["created_by"]) for one in listed.body["items"]] == [
        ("ci", "active", "admin")
    ]
    assert text.rpartition("_")[2] not in f"{listed.body}{revoked.body}"
    assert revoked.body["state"] == "revoked"
    assert (refused.status, refused.code()) == (401, "token_invalid")


async def test_a_token_is_not_kept_for_a_repeated_creation(admin_port: AdminPort) -> None:
    order = b'{"name": "ci", "role": "viewer", "reason": "The build."}'

    made = [await admin_port.send(CREATE_TOKEN, order, Idempotency_Key="once") for _ in range(2)]

    assert len({one.body["text"] for one in made}) == 2
    assert made[0].body["text"] not in f"{vars(admin_port.store)}"


@pytest.mark.parametrize(
    "order",
    [
        b'{"name": "ci", "role": "viewer"}',
        b'{"name": "ci", "role": "viewer", "reason": ""}',
        b'{"name": "ci", "role": "god", "reason": "x"}',
        b'{"name": "", "role": "viewer", "reason": "x"}',
        b'{"name": "c i", "role": "viewer", "reason": "x"}',
        b'{"name": "ci", "role": "viewer", "lifetime_s": 59, "reason": "x"}',
        b'{"name": "ci", "role": "viewer", "lifetime_s": 1e12, "reason": "x"}',
        b'{"name": "ci", "role": "viewer", "expires": "90d", "reason": "x"}',
    ],
)
async def test_an_order_that_cannot_be_carried_out_creates_nothing(
    admin_port: AdminPort, order: bytes
) -> None:
    answer = await admin_port.send(CREATE_TOKEN, order)

    assert (answer.status, answer.code()) == (422, "malformed_body")
    assert (await admin_port.send(TOKENS)).body["items"] == []
