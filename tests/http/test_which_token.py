"""A problem about a token says which one, and what is asked of the phone never leads in a circle."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from keyflock_client_sim.device.effects import Send, Wait
from keyflock_client_sim.device.input_events import Answered, Woke
from keyflock_client_sim.device.installation import DeviceStatus, Installation
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.device.states import DeviceState
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import CALLS, Call, Credential, Request, Response
from keyflock_server.protocol.problems import PROBLEMS, Problem, ProblemCode

if TYPE_CHECKING:
    from tests.http.conftest import SdkPort

pytestmark = pytest.mark.fault("F9")

GUARDED = [call for call in CALLS if call.credential is not Credential.NONE]
ASSIGNED = [call for call in CALLS if call.credential is Credential.ASSIGNMENT]
#: A device token of ``SdkPort`` lives for an hour, and may be refreshed for 30 days after that.
BEYOND_REFRESHING_S = 3_600.0 + 30 * 86_400.0

guarded = pytest.mark.parametrize("call", GUARDED, ids=lambda call: call.name)
assigned = pytest.mark.parametrize("call", ASSIGNED, ids=lambda call: call.name)


@guarded
async def test_a_token_that_cannot_be_refreshed_any_more_is_told_to_enrol_anew(
    sdk_port: SdkPort, call: Call
) -> None:
    last = sdk_port.device_token(age_s=BEYOND_REFRESHING_S - 1.0)
    over = sdk_port.device_token(age_s=BEYOND_REFRESHING_S)

    in_time = await sdk_port.send(call, Authorization=f"Bearer {last}")
    too_late = await sdk_port.send(call, Authorization=f"Bearer {over}")

    assert (in_time.status, in_time.code()) == (401, ProblemCode.TOKEN_EXPIRED)
    assert (too_late.status, too_late.code()) == (401, ProblemCode.ENROLMENT_EXPIRED)
    assert "enrol anew" in too_late.problem().title
    assert sdk_port.service.calls == []


async def test_a_refresh_is_never_told_to_refresh(sdk_port: SdkPort) -> None:
    ages_s = [0.0, 3_600.0, 3_606.0, BEYOND_REFRESHING_S - 1.0, BEYOND_REFRESHING_S, 400 * 86_400.0]
    answers = [
        await sdk_port.send(calls.ENROL, Authorization=f"Bearer {sdk_port.device_token(age_s=age_s)}")
        for age_s in ages_s
    ]

    assert [answer.status for answer in answers] == [200] * 4 + [401] * 2
    assert {answer.code() for answer in answers[4:]} == {ProblemCode.ENROLMENT_EXPIRED}


@pytest.mark.parametrize("refresh_grace_s", [0.001, 1.0, 4.999])
async def test_a_token_is_good_in_its_leeway_however_short_the_time_for_refreshing_is(
    sdk_port: SdkPort, refresh_grace_s: float
) -> None:
    tokens = DeviceTokens(sdk_port.keys, ttl_s=60.0, leeway_s=5.0, refresh_grace_s=refresh_grace_s)
    token = tokens.issue(sdk_port.phone, sdk_port.now)

    in_leeway = sdk_port.now + timedelta(seconds=64.9)

    assert tokens.read(token, in_leeway).device == sdk_port.phone.device
    assert tokens.read_for_refresh(token, in_leeway).device == sdk_port.phone.device


@assigned
@pytest.mark.parametrize("value", ["", "garbage", "a.b.c", "Bearer a.b.c", "e30.e30.", "é", "x" * 5_000])
async def test_garbage_for_an_assignment_leaves_the_device_its_identity(
    sdk_port: SdkPort, call: Call, value: str
) -> None:
    headers = {**sdk_port.headers(call), "Keyflock-Assignment": value}
    request = Request(call.method, call.path.format(assignment="a-1"), headers, sdk_port.good_body(call))

    answer = await sdk_port.endpoints.send(request)

    assert (answer.status, _code(answer)) == (403, ProblemCode.ASSIGNMENT_TOKEN_INVALID)
    assert "www-authenticate" not in answer.headers
    assert sdk_port.service.calls == []


@assigned
async def test_an_assignments_token_of_another_server_leaves_the_device_its_identity(
    sdk_port: SdkPort, call: Call
) -> None:
    token = sdk_port.assignment_token()
    other = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")

    answer = await sdk_port.send(call, Keyflock_Assignment=other)

    assert (answer.status, answer.code()) == (403, ProblemCode.ASSIGNMENT_TOKEN_INVALID)


@assigned
async def test_which_of_two_missing_tokens_is_missing_is_said(sdk_port: SdkPort, call: Call) -> None:
    without_device = await sdk_port.send(call, Authorization=None)
    without_assignment = await sdk_port.send(call, Keyflock_Assignment=None)

    assert (without_device.status, without_device.code()) == (401, ProblemCode.TOKEN_MISSING)
    assert (without_assignment.status, without_assignment.code()) == (
        403,
        ProblemCode.ASSIGNMENT_TOKEN_MISSING,
    )
    assert "Keyflock-Assignment" in without_assignment.problem().detail


@assigned
async def test_where_both_tokens_are_bad_the_devices_comes_first(sdk_port: SdkPort, call: Call) -> None:
    answer = await sdk_port.send(call, Authorization="Bearer garbage", Keyflock_Assignment="garbage")

    assert (answer.status, answer.code()) == (401, ProblemCode.TOKEN_INVALID)


def test_a_401_is_about_the_devices_token_or_its_evidence_and_nothing_else() -> None:
    unauthorised = {code for code, kind in PROBLEMS.items() if kind.status == 401}

    assert unauthorised == {
        ProblemCode.TOKEN_MISSING,
        ProblemCode.TOKEN_INVALID,
        ProblemCode.TOKEN_EXPIRED,
        ProblemCode.ENROLMENT_EXPIRED,
        ProblemCode.ATTESTATION_FAILED,
    }


async def test_a_phone_from_a_drawer_enrols_anew_and_works(sdk_port: SdkPort) -> None:
    """The simulated phone meets the real endpoints: it is refused a refresh, enrols anew and checks in."""
    device = Device(
        Installation(population=sdk_port.phone.population, app_build=1, locale="en-US"), random.Random(1)
    )
    shown: list[tuple[str, bool]] = []

    async def go_on(until: DeviceState) -> None:
        for _ in range(20):
            match device.effect:
                case Wait(until_s):
                    device.step(Woke(DeviceStatus(examples=3)), until_s)
                case Send() as send:
                    shown.append((send.call.name, "Authorization" in send.request.headers))
                    device.step(Answered(await sdk_port.endpoints.send(send.request)), 1.0)
                case other:
                    raise AssertionError(other)
            if device.state is until and isinstance(device.effect, Wait):
                return
        raise AssertionError(f"the phone goes in a circle: {shown}")

    await go_on(DeviceState.RESTING)
    attempt = device._call_attempt
    assert attempt.identity is not None
    expired = sdk_port.device_token(age_s=BEYOND_REFRESHING_S)
    attempt.identity = replace(attempt.identity, token=expired, refresh_at_s=0.0)
    shown.clear()

    await go_on(DeviceState.UNENROLLED)
    await go_on(DeviceState.RESTING)
    await go_on(DeviceState.RESTING)

    assert shown == [("enrol", True), ("enrol", False), ("check_in", True)]


def _code(answer: Response) -> ProblemCode:
    return wire.decode(answer.body, Problem).code
