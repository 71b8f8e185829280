"""What a device does when calls get lost and servers say no."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.device_events import AssignmentEnded, DeviceEnrolled, EndReason, ReportAcked
from keyflock_client_sim.device.effects import Send, Wait
from keyflock_client_sim.device.input_events import Interrupted
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.testing.scripted_server import problem_response
from keyflock_server.protocol import wire
from keyflock_server.protocol.calls import PROBLEM_MEDIA_TYPE, Response
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import Problem, ProblemCode

MakeWalk = Callable[..., Any]


async def test_a_lost_report_is_sent_again_byte_for_byte_and_counted_once(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", ConnectionError(), ConnectionError())

    await day.until(DeviceState.RESTING)

    reports = [send for send in day.sent if send.call.name == "report"]
    assert [send.attempt for send in reports] == [1, 2, 3]
    assert len({send.request.body for send in reports}) == 1
    assert len(day.server.counted) == 1
    *_, acked = day.device.take_events()
    assert isinstance(acked, ReportAcked)
    assert acked.is_duplicate


async def test_pauses_between_lost_calls_grow_and_stay_below_the_longest(walk: MakeWalk) -> None:
    day = walk(RetryPolicy(first_pause_s=2.0, max_pause_s=60.0))
    day.server.script("enrol", *[ConnectionError()] * 10)
    pauses_s = []

    await day.one()
    for _ in range(10):
        effect = await day.one()
        pauses_s.append(effect.until_s - day.now_s)
        await day.one()

    ceilings_s = [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0]
    assert all(c / 2 <= pause <= c for pause, c in zip(pauses_s, ceilings_s, strict=True))


async def test_a_pending_report_goes_out_again_within_the_window_that_the_server_named(
    walk: MakeWalk,
) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    window = ReturnWindow(min_s=5.0, max_s=7.0)
    day.server.script("report", problem_response(ProblemCode.REPORT_PENDING, window))

    effect = await day.one()

    assert isinstance(effect, Wait)
    assert not effect.when_idle
    assert 5.0 <= effect.until_s - day.now_s <= 7.0
    await day.until(DeviceState.RESTING)
    assert day.device.counters.reports_acked == 1


async def test_a_proxy_that_asks_for_patience_is_obeyed(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.CHECKING_IN)
    day.server.script("check_in", Response(429, {"retry-after": "30"}, b"slow down"))

    effect = await day.one()

    assert 30.0 <= effect.until_s - day.now_s <= 46.0


@pytest.mark.parametrize("header", ["Wed, 21 Oct 2026 07:28:00 GMT", "-3", "1e9", "9999999999", "\u0663"])
async def test_a_retry_after_that_is_no_number_of_seconds_is_ignored(walk: MakeWalk, header: str) -> None:
    day = walk(RetryPolicy(first_pause_s=2.0))
    await day.until(DeviceState.CHECKING_IN)
    day.server.script("check_in", Response(503, {"retry-after": header}, b""))

    effect = await day.one()

    assert effect.until_s - day.now_s <= 2.0


async def test_an_expired_token_is_renewed_and_the_same_bytes_go_out_with_the_new_one(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", problem_response(ProblemCode.TOKEN_EXPIRED))

    await day.until(DeviceState.RESTING)

    first, second = (send for send in day.sent if send.call.name == "report")
    assert first.request.body == second.request.body
    assert first.request.headers["Authorization"] != second.request.headers["Authorization"]
    refresh = day.sent[-2]
    assert refresh.call.name == "enrol"
    assert refresh.request.headers["Authorization"] == first.request.headers["Authorization"]
    assert day.device.counters.reports_acked == 1


async def test_a_token_that_expires_at_once_is_not_renewed_for_ever(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.CHECKING_IN)
    day.server.script("check_in", *[problem_response(ProblemCode.TOKEN_EXPIRED)] * 2)

    await day.one()
    await day.one()
    effect = await day.one()

    assert isinstance(effect, Wait)
    assert [send.call.name for send in day.sent] == ["enrol", "check_in", "enrol", "check_in"]


async def test_a_token_is_renewed_before_it_expires(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.RESTING)
    day.now_s += 86_200.0

    await day.one()

    assert day.device.effect.call.name == "enrol"
    await day.one()
    assert day.device.effect.call.name == "check_in"
    *_, enrolled = day.device.take_events()
    assert enrolled == DeviceEnrolled(day.device._call_attempt.identity.device, is_refresh=True)


async def test_a_device_that_the_server_forgot_enrols_as_another(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.OFFERING)
    day.server.script("offer", problem_response(ProblemCode.TOKEN_INVALID))

    await day.one()

    assert day.device.state is DeviceState.UNENROLLED
    *_, ended = day.device.take_events()
    assert isinstance(ended, AssignmentEnded)
    assert ended.reason is EndReason.IDENTITY_RESET
    await day.until(DeviceState.RESTING)
    assert "Authorization" not in day.sent[-1].request.headers


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ProblemCode.ROUND_GONE, EndReason.ROUND_OVER),
        (ProblemCode.REPORT_CONFLICT, EndReason.REFUSED),
        (ProblemCode.MALFORMED_DELTA, EndReason.REFUSED),
        (ProblemCode.DELTA_TOO_LARGE, EndReason.REFUSED),
        (ProblemCode.QUARANTINED, EndReason.REFUSED),
        (ProblemCode.WRONG_ASSIGNMENT, EndReason.REFUSED),
    ],
)
async def test_a_report_refused_for_good_is_given_up_and_not_made_again(
    walk: MakeWalk, code: ProblemCode, reason: EndReason
) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", problem_response(code))

    await day.one()

    *_, ended = day.device.take_events()
    assert (ended.reason, ended.detail, ended.session_shape) == (reason, code.value, "-v[]+#")
    await day.until(DeviceState.CHECKING_IN)
    await day.one()
    assert day.device.state is DeviceState.RESTING
    assert day.device.counters.assignments == 1


async def test_a_report_that_waits_at_the_server_is_asked_for_beyond_its_assignments_time(
    walk: MakeWalk,
) -> None:
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.UPLOADING)
    window = ReturnWindow(min_s=90.0, max_s=90.0)
    day.server.script("report", *[problem_response(ProblemCode.REPORT_PENDING, window)] * 3)
    began_s = day.now_s

    await day.until(DeviceState.RESTING)

    *_, acked = day.device.take_events()
    assert isinstance(acked, ReportAcked)
    assert day.now_s - began_s >= 270.0


async def test_an_upload_that_never_gets_through_ends_when_the_assignment_expires(walk: MakeWalk) -> None:
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", *[ConnectionError()] * 50)
    began_s = day.now_s

    await day.until(DeviceState.RESTING)

    *_, ended = day.device.take_events()
    assert ended.reason is EndReason.EXPIRED
    assert day.now_s - began_s <= 100.0


async def test_an_interrupted_upload_goes_on_later_with_the_same_bytes(walk: MakeWalk) -> None:
    day = walk()
    before = await day.until(DeviceState.UPLOADING)

    pause = day.tell(Interrupted())
    after = await day.one()

    assert isinstance(pause, Wait)
    assert isinstance(before, Send)
    assert isinstance(after, Send)
    assert after.request == before.request
    assert after.attempt == 2


@pytest.mark.parametrize(
    "code", [ProblemCode.POPULATION_UNKNOWN, ProblemCode.PROTOCOL_UNSUPPORTED, ProblemCode.MALFORMED_BODY]
)
async def test_a_device_that_cannot_be_helped_comes_back_a_day_later(
    walk: MakeWalk, code: ProblemCode
) -> None:
    day = walk()
    await day.until(DeviceState.CHECKING_IN)
    day.server.script("check_in", problem_response(code))

    effect = await day.one()

    assert 86_400.0 <= effect.until_s - day.now_s <= 1.5 * 86_400.0


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
async def test_a_failing_server_is_called_again(walk: MakeWalk, status: int) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", Response(status, {"content-type": "text/html"}, b"<h1>sorry</h1>"))

    await day.until(DeviceState.RESTING)

    assert day.device.counters.reports_acked == 1


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x81\xa4code\xa7unknown", b"\x93\x01\x02\x03"])
async def test_an_answer_that_cannot_be_read_is_as_good_as_none(walk: MakeWalk, body: bytes) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script(
        "report", Response(200, {}, body), Response(503, {"content-type": PROBLEM_MEDIA_TYPE}, body)
    )

    await day.until(DeviceState.RESTING)

    assert day.device.counters.reports_acked == 1


@pytest.mark.fault("D9")
@pytest.mark.parametrize("code", [ProblemCode.MODEL_UNKNOWN, ProblemCode.MODEL_WITHDRAWN])
async def test_a_model_that_is_not_served_any_more_is_given_back_and_the_next_work_is_done(
    walk: MakeWalk, code: ProblemCode
) -> None:
    day = walk()
    await day.until(DeviceState.DOWNLOADING)
    day.server.script("model", problem_response(code))

    await day.until(DeviceState.RESTING)
    given_up = [event for event in day.device.take_events() if isinstance(event, AssignmentEnded)]
    await day.until(DeviceState.UPLOADING)

    assert [one.reason for one in given_up] == [EndReason.RETURNED]


@pytest.mark.fault("F9")
@pytest.mark.parametrize("code", [ProblemCode.ASSIGNMENT_TOKEN_INVALID, ProblemCode.ASSIGNMENT_TOKEN_MISSING])
@pytest.mark.parametrize("call", ["offer", "report"])
async def test_what_is_wrong_with_an_assignments_token_costs_the_assignment_and_not_the_identity(
    walk: MakeWalk, call: str, code: ProblemCode
) -> None:
    day = walk()
    await day.until(DeviceState.RESTING)
    identity = day.device._call_attempt.identity
    day.server.script(call, problem_response(code))

    await day.until(DeviceState.OFFERING)
    await day.until(DeviceState.RESTING)

    *_, ended = day.device.take_events()
    assert (ended.reason, ended.detail) == (EndReason.REFUSED, code.value)
    assert day.device._call_attempt.identity == identity


@pytest.mark.fault("F9")
async def test_a_token_that_is_too_old_to_be_refreshed_is_not_shown_again(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", problem_response(ProblemCode.TOKEN_EXPIRED))
    day.server.script("enrol", problem_response(ProblemCode.ENROLMENT_EXPIRED))

    await day.until(DeviceState.UNENROLLED)
    await day.until(DeviceState.RESTING)

    assert [send.call.name for send in day.sent[-3:]] == ["report", "enrol", "enrol"]
    assert ["Authorization" in send.request.headers for send in day.sent[-2:]] == [True, False]


def later_problem(status: int, **fields: object) -> Response:
    """A problem document with a code that this release does not know."""
    known = wire.decode(problem_response(ProblemCode.CONFLICT).body, Problem)
    document = {**msgspec.to_builtins(known), "code": "of_a_later_release", "status": status, **fields}
    return Response(status, {"content-type": PROBLEM_MEDIA_TYPE}, msgspec.msgpack.encode(document))


@pytest.mark.fault("F9")
@pytest.mark.parametrize(
    ("status", "fields", "state"),
    [
        (401, {}, DeviceState.UNENROLLED),
        (403, {}, DeviceState.RESTING),
        (404, {}, DeviceState.RESTING),
        (410, {}, DeviceState.RESTING),
        (422, {}, DeviceState.RESTING),
        (503, {}, DeviceState.UPLOADING),
        (422, {"retry": {"min_s": 1.0, "max_s": 2.0}}, DeviceState.UPLOADING),
    ],
)
async def test_a_code_of_a_later_release_means_what_its_status_means(
    walk: MakeWalk, status: int, fields: dict[str, object], state: DeviceState
) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    day.server.script("report", later_problem(status, **fields))

    await day.one()

    assert day.device.state is state
    assert (day.device._call_attempt.identity is None) == (status == 401)
