"""Who may call what: every SDK call with every kind of wrong token."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.http.conftest import BODIES

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import CALLS, Call, Credential
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, PopulationName
from keyflock_server.protocol.messages import Enrolment
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.http.conftest import Door

msgpack = msgspec.msgpack.encode

GUARDED = [call for call in CALLS if call.credential is not Credential.NONE]
ASSIGNED = [call for call in CALLS if call.credential is Credential.ASSIGNMENT]

guarded = pytest.mark.parametrize("call", GUARDED, ids=lambda call: call.name)
assigned = pytest.mark.parametrize("call", ASSIGNED, ids=lambda call: call.name)
every = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


@every
async def test_a_good_call_is_answered(door: Door, call: Call) -> None:
    answer = await door.send(call)

    assert answer.status == 200
    assert call.name in [name for name, _ in door.service.calls]


@guarded
async def test_a_call_without_a_token_is_told_to_enrol(door: Door, call: Call) -> None:
    answer = await door.send(call, Authorization=None)

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_MISSING)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert door.service.calls == []


@every
@pytest.mark.parametrize(
    "value", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer garbage", "Bearer a.b.c"]
)
async def test_a_call_with_something_else_is_refused(door: Door, call: Call, value: str) -> None:
    answer = await door.send(call, Authorization=value)

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert door.service.calls == []


@every
async def test_a_call_with_a_foreign_token_is_refused(door: Door, call: Call) -> None:
    foreign = DeviceTokens(SigningKeys.of(bytes(32)), ttl_s=3600.0).issue(door.phone, door.now)

    answer = await door.send(call, Authorization=f"Bearer {foreign}")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert door.service.calls == []


@every
async def test_a_call_with_a_tampered_token_is_refused(door: Door, call: Call) -> None:
    header, payload, signature = door.device_token().split(".")
    decoded = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    tampered = base64.urlsafe_b64encode(decoded.replace(b"phone-1", b"phone-2")).rstrip(b"=").decode()

    answer = await door.send(call, Authorization=f"Bearer {header}.{tampered}.{signature}")

    assert tampered != payload
    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert door.service.calls == []


@guarded
async def test_a_call_with_an_expired_token_is_told_to_refresh_it(door: Door, call: Call) -> None:
    answer = await door.send(call, Authorization=f"Bearer {door.device_token(age_s=3606.0)}")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_EXPIRED)
    assert door.service.calls == []


@pytest.mark.fault("D5")
@every
async def test_a_call_with_a_void_token_is_refused_and_another_phones_is_not(door: Door, call: Call) -> None:
    digest = door.revocations.digest(door.phone.device)
    door.revocations.learn(digest, 3, door.now, door.now + timedelta(days=1))
    new, other = replace(door.phone, generation=4), DeviceIdentity(DeviceId("b"), door.phone.population)

    refused = await door.send(call, Authorization=f"Bearer {door.device_token()}")
    was_asked = list(door.service.calls)
    passed = await door.send(call, Authorization=f"Bearer {door.device_token(new)}")
    if call.credential is not Credential.ASSIGNMENT:
        assert (await door.send(call, Authorization=f"Bearer {door.device_token(other)}")).status == 200

    assert (refused.status, refused.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert was_asked == []
    assert passed.status == 200


@pytest.mark.fault("D5")
async def test_a_token_that_becomes_void_while_the_body_comes_opens_nothing(door: Door) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield msgpack(BODIES["check_in"])[:5]
        digest = door.revocations.digest(door.phone.device)
        door.revocations.learn(digest, 3, door.now, door.now + timedelta(days=1))
        yield msgpack(BODIES["check_in"])[5:]

    answer = await door.send(calls.CHECK_IN, slowly())

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert door.service.calls == []


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    ("query", "is_whole_user"),
    [("", False), ("?scope=device", False), ("?scope=user", True), ("?other=1&scope=user", True)],
)
async def test_forget_me_takes_the_device_unless_its_user_is_asked_for(
    door: Door, query: str, is_whole_user: bool
) -> None:
    headers = {**door.headers(calls.FORGET), "Keyflock-User": "who"}

    answer = await door.request("DELETE", f"/v1/devices/me{query}", headers=headers)

    assert answer.status == 200
    assert door.service.calls[0] == ("erasure_scope", (door.phone, "who", is_whole_user))


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    "query",
    ["?scope=", "?scope", "?scope=all", "?scope=User", "?scope=user&scope=user", "?scope=device&scope=user"],
)
async def test_forget_me_of_another_scope_takes_nothing(door: Door, query: str) -> None:
    answer = await door.request("DELETE", f"/v1/devices/me{query}", headers=door.headers(calls.FORGET))

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert door.service.calls == []


@every
async def test_an_assignment_token_opens_no_call_as_bearer(door: Door, call: Call) -> None:
    answer = await door.send(call, Authorization=f"Bearer {door.assignment_token()}")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)


@assigned
async def test_a_device_token_is_no_assignment(door: Door, call: Call) -> None:
    answer = await door.send(call, Keyflock_Assignment=door.device_token())

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)


@assigned
async def test_a_call_without_its_assignment_is_refused(door: Door, call: Call) -> None:
    answer = await door.send(call, Keyflock_Assignment=None)

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_MISSING)
    assert "Keyflock-Assignment" in answer.problem().detail


@pytest.mark.parametrize("call", [calls.OFFER, calls.FAILURE], ids=lambda call: call.name)
async def test_an_expired_assignment_has_lost_its_round(door: Door, call: Call) -> None:
    late = replace(door.claims, expires_at=door.now - timedelta(seconds=5))

    answer = await door.send(call, Keyflock_Assignment=door.assignment_token(late))

    assert (answer.status, answer.code()) == (410, ProblemCode.ROUND_GONE)


async def test_whether_a_late_report_was_counted_is_for_the_coordinator_to_say(door: Door) -> None:
    late = replace(door.claims, expires_at=door.now - timedelta(days=3))

    answer = await door.send(calls.REPORT, Keyflock_Assignment=door.assignment_token(late))

    assert answer.status == 200
    assert [name for name, _ in door.service.calls] == ["report"]


@assigned
@pytest.mark.parametrize(
    "change",
    [
        {"device": DeviceId("phone-2")},
        {"assignment": AssignmentId("a-2")},
        {"population": PopulationName("de-DE")},
    ],
    ids=["device", "assignment", "population"],
)
async def test_an_assignment_of_another_is_refused(
    door: Door, call: Call, change: dict[str, DeviceId | AssignmentId | PopulationName]
) -> None:
    other = replace(door.claims, **change)  # type: ignore[arg-type]  # one field of its own type

    answer = await door.send(call, Keyflock_Assignment=door.assignment_token(other))

    assert (answer.status, answer.code()) == (403, ProblemCode.WRONG_ASSIGNMENT)
    assert door.service.calls == []


@pytest.mark.parametrize("call", [calls.RELEASE, calls.VOCABULARY], ids=lambda call: call.name)
async def test_a_phone_asks_only_about_its_own_population(door: Door, call: Call) -> None:
    path = call.path.format(population="de-DE")

    answer = await door.request("GET", path, headers=door.headers(call))

    assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)


async def test_a_phone_that_shows_its_expired_token_keeps_its_id(door: Door) -> None:
    old = door.device_token(age_s=10 * 86_400.0)

    answer = await door.send(calls.ENROL, Authorization=f"Bearer {old}")
    enrolment = msgspec.msgpack.decode(answer.body, type=Enrolment)

    assert enrolment.device == "phone-1"
    assert door.service.calls == [("enrol", (door.phone, None, None))]
    again = await door.send(calls.CHECK_IN, Authorization=f"Bearer {enrolment.token}")
    assert again.status == 200


async def test_a_token_is_refreshed_in_its_own_population_only(door: Door) -> None:
    elsewhere = DeviceIdentity(door.phone.device, PopulationName("de-DE"))

    answer = await door.send(calls.ENROL, Authorization=f"Bearer {door.device_token(elsewhere)}")

    assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)
