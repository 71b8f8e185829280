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
from keyflock_server.protocol.messages import Enrolment, EnrolRequest
from keyflock_server.protocol.problems import ProblemCode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.http.conftest import SdkPort

msgpack = msgspec.msgpack.encode

GUARDED = [call for call in CALLS if call.credential is not Credential.NONE]
ASSIGNED = [call for call in CALLS if call.credential is Credential.ASSIGNMENT]

guarded = pytest.mark.parametrize("call", GUARDED, ids=lambda call: call.name)
assigned = pytest.mark.parametrize("call", ASSIGNED, ids=lambda call: call.name)
every = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


@every
async def test_a_good_call_is_answered(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call)

    assert answer.status == 200
    assert call.name in [name for name, _ in sdk_port.service.calls]


@guarded
async def test_a_call_without_a_token_is_told_to_enrol(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, Authorization=None)

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_MISSING)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert sdk_port.service.calls == []


@every
@pytest.mark.parametrize(
    "value", ["Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer garbage", "Bearer a.b.c"]
)
async def test_a_call_with_something_else_is_refused(sdk_port: SdkPort, call: Call, value: str) -> None:
    answer = await sdk_port.send(call, Authorization=value)

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert sdk_port.service.calls == []


@every
async def test_a_call_with_a_foreign_token_is_refused(sdk_port: SdkPort, call: Call) -> None:
    foreign = DeviceTokens(SigningKeys.of(bytes(32)), ttl_s=3600.0).issue(sdk_port.phone, sdk_port.now)

    answer = await sdk_port.send(call, Authorization=f"Bearer {foreign}")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert sdk_port.service.calls == []


@every
async def test_a_call_with_a_tampered_token_is_refused(sdk_port: SdkPort, call: Call) -> None:
    header, payload, signature = sdk_port.device_token().split(".")
    decoded = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    tampered = base64.urlsafe_b64encode(decoded.replace(b"phone-1", b"phone-2")).rstrip(b"=").decode()

    answer = await sdk_port.send(call, Authorization=f"Bearer {header}.{tampered}.{signature}")

    assert tampered != payload
    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert sdk_port.service.calls == []


@guarded
async def test_a_call_with_an_expired_token_is_told_to_refresh_it(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, Authorization=f"Bearer {sdk_port.device_token(age_s=3606.0)}")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_EXPIRED)
    assert sdk_port.service.calls == []


@pytest.mark.fault("D5")
@every
async def test_a_call_with_a_void_token_is_refused_and_another_phones_is_not(
    sdk_port: SdkPort, call: Call
) -> None:
    digest = sdk_port.revocations.digest(sdk_port.phone.device)
    sdk_port.revocations.record(digest, 3, sdk_port.now, sdk_port.now + timedelta(days=1))
    new, other = (
        replace(sdk_port.phone, generation=4),
        DeviceIdentity(DeviceId("b"), sdk_port.phone.population),
    )

    refused = await sdk_port.send(call, Authorization=f"Bearer {sdk_port.device_token()}")
    was_asked = list(sdk_port.service.calls)
    passed = await sdk_port.send(call, Authorization=f"Bearer {sdk_port.device_token(new)}")
    if call.credential is not Credential.ASSIGNMENT:
        assert (
            await sdk_port.send(call, Authorization=f"Bearer {sdk_port.device_token(other)}")
        ).status == 200

    assert (refused.status, refused.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert was_asked == []
    assert passed.status == 200


@pytest.mark.fault("D5")
async def test_a_token_that_becomes_void_while_the_body_comes_opens_nothing(sdk_port: SdkPort) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        yield msgpack(BODIES["check_in"])[:5]
        digest = sdk_port.revocations.digest(sdk_port.phone.device)
        sdk_port.revocations.record(digest, 3, sdk_port.now, sdk_port.now + timedelta(days=1))
        yield msgpack(BODIES["check_in"])[5:]

    answer = await sdk_port.send(calls.CHECK_IN, slowly())

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)
    assert sdk_port.service.calls == []


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    ("query", "is_whole_user"),
    [("", False), ("?scope=device", False), ("?scope=user", True), ("?other=1&scope=user", True)],
)
async def test_forget_me_takes_the_device_unless_its_user_is_asked_for(
    sdk_port: SdkPort, query: str, is_whole_user: bool
) -> None:
    headers = {**sdk_port.headers(calls.FORGET), "Keyflock-User": "who"}

    answer = await sdk_port.request("DELETE", f"/v1/devices/me{query}", headers=headers)

    assert answer.status == 200
    assert sdk_port.service.calls[0] == ("erasure_scope", (sdk_port.phone, "who", is_whole_user))


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    "query",
    ["?scope=", "?scope", "?scope=all", "?scope=User", "?scope=user&scope=user", "?scope=device&scope=user"],
)
async def test_forget_me_of_another_scope_takes_nothing(sdk_port: SdkPort, query: str) -> None:
    answer = await sdk_port.request(
        "DELETE", f"/v1/devices/me{query}", headers=sdk_port.headers(calls.FORGET)
    )

    assert (answer.status, answer.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert sdk_port.service.calls == []


@pytest.mark.parametrize(("query", "is_whole_user"), [("", False), ("?scope=user", True)])
async def test_what_is_stored_is_told_of_the_device_unless_its_user_is_asked_for(
    sdk_port: SdkPort, query: str, is_whole_user: bool
) -> None:
    headers = {**sdk_port.headers(calls.STORED_DATA), "Keyflock-User": "who"}

    answer = await sdk_port.request("GET", f"/v1/devices/me{query}", headers=headers)
    wrong = await sdk_port.request("GET", "/v1/devices/me?scope=all", headers=headers)

    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert (wrong.status, wrong.code()) == (422, ProblemCode.MALFORMED_BODY)
    assert sdk_port.service.calls == [("stored_data", (sdk_port.phone, "who", is_whole_user))]


@every
async def test_an_assignment_token_opens_no_call_as_bearer(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, Authorization=f"Bearer {sdk_port.assignment_token()}")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)


@assigned
async def test_a_device_token_is_no_assignment(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, Keyflock_Assignment=sdk_port.device_token())

    assert (answer.status, answer.code()) == (403, ProblemCode.ASSIGNMENT_TOKEN_INVALID)


@pytest.mark.parametrize("call", [calls.OFFER, calls.FAILURE], ids=lambda call: call.name)
async def test_an_expired_assignment_has_lost_its_round(sdk_port: SdkPort, call: Call) -> None:
    late = replace(sdk_port.claims, expires_at=sdk_port.now - timedelta(seconds=5))

    answer = await sdk_port.send(call, Keyflock_Assignment=sdk_port.assignment_token(late))

    assert (answer.status, answer.code()) == (410, ProblemCode.ROUND_GONE)


async def test_whether_a_late_report_was_counted_is_for_the_coordinator_to_say(sdk_port: SdkPort) -> None:
    late = replace(sdk_port.claims, expires_at=sdk_port.now - timedelta(days=3))

    answer = await sdk_port.send(calls.REPORT, Keyflock_Assignment=sdk_port.assignment_token(late))

    assert answer.status == 200
    assert [name for name, _ in sdk_port.service.calls] == ["report"]


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
    sdk_port: SdkPort, call: Call, change: dict[str, DeviceId | AssignmentId | PopulationName]
) -> None:
    other = replace(sdk_port.claims, **change)  # type: ignore[arg-type]  # one field of its own type

    answer = await sdk_port.send(call, Keyflock_Assignment=sdk_port.assignment_token(other))

    assert (answer.status, answer.code()) == (403, ProblemCode.WRONG_ASSIGNMENT)
    assert sdk_port.service.calls == []


@pytest.mark.parametrize("call", [calls.RELEASE, calls.VOCABULARY], ids=lambda call: call.name)
async def test_a_phone_asks_only_about_its_own_population(sdk_port: SdkPort, call: Call) -> None:
    path = call.path.format(population="de-DE")

    answer = await sdk_port.request("GET", path, headers=sdk_port.headers(call))

    assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)


@pytest.mark.fault("F14")
@pytest.mark.parametrize("name", ["a%00b", "%00", "en-US%00", "a%0Ab"])
async def test_a_name_with_control_characters_is_another_population_and_no_failure_of_the_database(
    sdk_port: SdkPort, name: str
) -> None:
    for call in (calls.RELEASE, calls.VOCABULARY):
        path = call.path.format(population=name)

        answer = await sdk_port.request("GET", path, headers=sdk_port.headers(call))

        assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)


async def test_a_phone_that_shows_its_expired_token_keeps_its_id(sdk_port: SdkPort) -> None:
    old = sdk_port.device_token(age_s=10 * 86_400.0)

    answer = await sdk_port.send(calls.ENROL, Authorization=f"Bearer {old}")
    enrolment = msgspec.msgpack.decode(answer.body, type=Enrolment)

    assert enrolment.device == "phone-1"
    assert sdk_port.service.calls == [("enrol", (sdk_port.phone, None, None))]
    again = await sdk_port.send(calls.CHECK_IN, Authorization=f"Bearer {enrolment.token}")
    assert again.status == 200


async def test_a_token_is_refreshed_in_its_own_population_only(sdk_port: SdkPort) -> None:
    elsewhere = DeviceIdentity(sdk_port.phone.device, PopulationName("de-DE"))

    answer = await sdk_port.send(calls.ENROL, Authorization=f"Bearer {sdk_port.device_token(elsewhere)}")

    assert (answer.status, answer.code()) == (403, ProblemCode.FORBIDDEN)


async def test_the_token_of_an_enrolled_phone_says_what_a_check_in_is_judged_by(sdk_port: SdkPort) -> None:
    request = EnrolRequest(
        protocol=1, population="en-US", app_build=1, locale="en-US", tier=2, tags=("beta", "tablet")
    )

    answer = await sdk_port.send(calls.ENROL, msgspec.msgpack.encode(request))

    token = msgspec.msgpack.decode(answer.body, type=Enrolment).token
    assert DeviceTokens(sdk_port.keys, ttl_s=3600.0).read(token, sdk_port.now) == DeviceIdentity(
        DeviceId("phone-new"),
        PopulationName("en-US"),
        is_described=True,
        tier=2,
        tags=("beta", "tablet"),
        last_contributed_at=sdk_port.now - timedelta(days=2),
    )
