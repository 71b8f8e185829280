"""A device at the very moment that an assignment expires, and at its other exact limits."""

import random
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import pytest

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.device_events import AssignmentEnded, EndReason
from keyflock_client_sim.device.effects import Effect, Send, StoreModel, Wait
from keyflock_client_sim.device.input_events import Answered, CallLost, Interrupted, Trained, Woke
from keyflock_client_sim.device.installation import DeviceStatus
from keyflock_client_sim.device.states import DeviceState
from keyflock_client_sim.testing.scripted_server import problem_response, success_response
from keyflock_server.protocol import wire
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.messages import (
    Enrolment,
    Failure,
    FailureAck,
    FailureCause,
    OfferAction,
    OfferAnswer,
    Receipt,
    Refusal,
    RefusalReason,
    ReturnWindow,
)
from keyflock_server.protocol.problems import ProblemCode

MakeWalk = Callable[..., Any]
#: A Walk; each of its effects is of the kind that the test expects.
AnyWalk: TypeAlias = Any
TRAINED = Trained(delta=b"delta", examples=1)
#: The window of no other answer.
NAMED = ReturnWindow(min_s=4_321.0, max_s=4_321.0)
BRIEF = ReturnWindow(min_s=1.0, max_s=1.0)


def expires_at_s(day: AnyWalk) -> float:
    return float(day.device._session.expires_at_s)


def ended(day: AnyWalk) -> list[EndReason]:
    return [event.reason for event in day.device.take_events() if isinstance(event, AssignmentEnded)]


async def test_a_result_at_the_moment_of_expiry_is_not_offered(walk: MakeWalk) -> None:
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.TRAINING)
    day.now_s = expires_at_s(day)

    effect = day.tell(TRAINED)

    assert isinstance(effect, Wait)
    assert ended(day) == [EndReason.EXPIRED]
    assert day.device.state is DeviceState.RESTING


async def test_a_result_of_one_example_just_before_it_is_offered(walk: MakeWalk) -> None:
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.TRAINING)
    day.now_s = expires_at_s(day) - 0.001

    effect = day.tell(TRAINED)

    assert isinstance(effect, Send)
    assert effect.call.name == "offer"


@pytest.mark.parametrize("state", [DeviceState.DOWNLOADING, DeviceState.OFFERING, DeviceState.UPLOADING])
async def test_a_call_that_was_lost_goes_out_again_until_the_assignment_expires(
    walk: MakeWalk, state: DeviceState
) -> None:
    for early_s, goes_out in ((0.001, True), (0.0, False)):
        day = walk(expires_in_s=100.0)
        await day.until(state)
        day.tell(CallLost())
        day.now_s = expires_at_s(day) - early_s

        effect = day.tell(Woke(DeviceStatus()))

        assert isinstance(effect, Send) == goes_out
        assert ended(day) == ([] if goes_out else [EndReason.EXPIRED])


async def test_a_pause_that_ends_as_the_assignment_expires_is_not_begun(walk: MakeWalk) -> None:
    for pause_s, is_begun in ((59.999, True), (60.0, False)):
        day = walk(expires_in_s=100.0)
        await day.until(DeviceState.OFFERING)
        day.now_s = expires_at_s(day) - 60.0
        window = ReturnWindow(min_s=pause_s, max_s=pause_s)

        effect = day.tell(Answered(problem_response(ProblemCode.OVERLOADED, window)))

        assert isinstance(effect, Wait)
        assert effect.when_idle == (not is_begun)
        assert ended(day) == ([] if is_begun else [EndReason.EXPIRED])


async def test_a_token_is_refreshed_even_while_the_assignment_expires(walk: MakeWalk) -> None:
    # The server may have counted the report: only the answer tells, so the call is worth a new token.
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.UPLOADING)
    day.tell(Answered(problem_response(ProblemCode.TOKEN_EXPIRED)))
    day.now_s = expires_at_s(day) - 0.001

    pause = day.tell(CallLost())
    day.now_s = pause.until_s
    effect = day.tell(Woke(DeviceStatus()))

    assert isinstance(effect, Send)
    assert effect.call.name == "enrol"
    assert ended(day) == []


async def test_an_assignment_is_given_back_until_it_expires(walk: MakeWalk) -> None:
    for early_s, is_told in ((0.001, True), (0.0, False)):
        day = walk(expires_in_s=100.0)
        await day.until(DeviceState.TRAINING)
        day.now_s = expires_at_s(day) - early_s

        effect = day.tell(Interrupted())

        assert isinstance(effect, Send) == is_told
        assert ended(day) == ([] if is_told else [EndReason.EXPIRED])


async def test_a_pending_report_is_asked_for_during_an_hour_after_the_last_answer(walk: MakeWalk) -> None:
    for pause_s, is_asked_for in ((3_599.9, True), (3_600.0, False)):
        day = walk(expires_in_s=100.0)
        await day.until(DeviceState.UPLOADING)
        window = ReturnWindow(min_s=pause_s, max_s=pause_s)

        day.tell(Answered(problem_response(ProblemCode.REPORT_PENDING, window)))

        assert ended(day) == ([] if is_asked_for else [EndReason.EXPIRED])


async def test_a_pending_report_does_not_shorten_a_long_assignment(walk: MakeWalk) -> None:
    day = walk(expires_in_s=10_000.0)
    await day.until(DeviceState.UPLOADING)
    before_s = expires_at_s(day)

    day.tell(Answered(problem_response(ProblemCode.REPORT_PENDING, BRIEF)))

    assert expires_at_s(day) == before_s


async def test_a_download_that_is_answered_like_a_pending_report_does_not_live_on(walk: MakeWalk) -> None:
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.DOWNLOADING)
    before_s = expires_at_s(day)

    day.tell(Answered(problem_response(ProblemCode.REPORT_PENDING, BRIEF)))

    assert expires_at_s(day) == before_s


async def test_only_a_pending_report_lives_on(walk: MakeWalk) -> None:
    day = walk(expires_in_s=100.0)
    await day.until(DeviceState.UPLOADING)
    before_s = expires_at_s(day)

    day.tell(Answered(problem_response(ProblemCode.OVERLOADED, BRIEF)))

    assert expires_at_s(day) == before_s


async def assigned_again(day: AnyWalk) -> Effect:
    """Let the assignment that the device had come once more, and return the effect."""
    await day.until(DeviceState.CHECKING_IN, Send)
    day.server.counted.clear()
    day.server.closed.clear()
    effect: Effect = await day.one()
    return effect


async def test_a_reported_assignment_is_not_done_again(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)
    await day.one()

    effect = await assigned_again(day)

    assert day.device.state is DeviceState.RESTING
    assert isinstance(effect, Wait)
    assert day.device.counters.assignments == 1


async def test_an_expired_assignment_is_not_done_again_and_one_given_back_is(walk: MakeWalk) -> None:
    for waited_s, assignments in ((100.0, 1), (0.0, 2)):
        day = walk(expires_in_s=100.0)
        await day.until(DeviceState.TRAINING)
        day.now_s += waited_s
        day.tell(Interrupted())

        await assigned_again(day)

        assert day.device.counters.assignments == assignments


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (DeviceState.UPLOADING, Receipt(counted=True, return_window=NAMED)),
        (DeviceState.UPLOADING, Receipt(counted=False, return_window=NAMED)),
        (DeviceState.OFFERING, OfferAnswer(action=OfferAction.DROP, return_window=NAMED)),
        (DeviceState.OFFERING, OfferAnswer(action=OfferAction.REBASE, return_window=NAMED)),
        (DeviceState.CHECKING_IN, Refusal(reason=RefusalReason.TOO_SOON, return_window=NAMED)),
        (DeviceState.RETURNING, FailureAck(return_window=NAMED)),
    ],
)
async def test_the_window_of_every_answer_is_kept_now_and_for_later(
    walk: MakeWalk, state: DeviceState, answer: Message
) -> None:
    day = walk()
    if state is DeviceState.RETURNING:
        await day.until(DeviceState.TRAINING)
        day.tell(Interrupted())
    else:
        await day.until(state, Send)

    effect = day.tell(Answered(success_response(answer)))

    assert day.device.state is DeviceState.RESTING
    assert effect.until_s == day.now_s + 4_321.0
    # Whoever is interrupted at the next check-in has no answer, and goes by the last one.
    day.now_s = effect.until_s
    day.tell(Woke(DeviceStatus()))
    assert day.tell(Interrupted()).until_s == day.now_s + 4_321.0


async def test_the_window_of_an_enrolment_is_kept(walk: MakeWalk) -> None:
    day = walk()
    await day.one()
    enrolment = Enrolment(device=DeviceId("d"), token="t", expires_in_s=86_400.0, return_window=NAMED)

    effect = day.tell(Answered(success_response(enrolment)))

    assert effect == Wait(day.now_s + 4_321.0, when_idle=True)


async def test_a_report_that_was_not_counted_is_refused_and_not_acknowledged(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.UPLOADING)

    day.tell(Answered(success_response(Receipt(counted=False, return_window=NAMED))))

    *_, end = day.device.take_events()
    assert (end.reason, end.detail, end.session_shape) == (EndReason.REFUSED, "not_counted", "-v[]+#")
    assert day.device.counters.reports_acked == 0


async def test_a_report_is_unsettled_from_training_until_its_answer(walk: MakeWalk) -> None:
    day = walk()
    assert not day.device.has_unsettled_report

    await day.until(DeviceState.TRAINING)
    assert not day.device.has_unsettled_report
    await day.until(DeviceState.OFFERING)
    assert day.device.has_unsettled_report
    await day.until(DeviceState.UPLOADING)
    assert day.device.has_unsettled_report
    await day.one()
    assert not day.device.has_unsettled_report


async def test_a_model_as_large_as_the_phone_takes_is_stored_and_no_larger_one(walk: MakeWalk) -> None:
    for spare_bytes, is_stored in ((0, True), (-1, False)):
        day = walk()
        await day.until(DeviceState.DOWNLOADING)
        size = len(day.server.model_body(0))
        installation = day.device.installation
        capabilities = msgspec.structs.replace(
            installation.capabilities, max_download_bytes=size + spare_bytes
        )
        object.__setattr__(installation, "capabilities", capabilities)

        effect = await day.one()

        assert isinstance(effect, StoreModel) == is_stored
        if not is_stored:
            assert wire.decode(effect.request.body, Failure).cause is FailureCause.DOWNLOAD_FAILED


@pytest.mark.parametrize("uniform", [1.0, 1.5])
async def test_a_device_that_may_not_enrol_asks_again_after_a_day_or_a_day_and_a_half(
    walk: MakeWalk, uniform: float
) -> None:
    class Fixed(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert (a, b) == (1.0, 1.5)
            return uniform

    day = walk(RetryPolicy(permanent_failure_delay_s=1_000.0))
    await day.one()
    day.device._rng = Fixed()

    effect = day.tell(Answered(problem_response(ProblemCode.POPULATION_UNKNOWN)))

    assert effect == Wait(day.now_s + 1_000.0 * uniform, when_idle=True)


async def test_a_refusal_without_work_is_drawn_over_half_a_day_more(walk: MakeWalk) -> None:
    class Width(random.Random):
        def uniform(self, a: float, b: float) -> float:
            return b - a

    day = walk(RetryPolicy(permanent_failure_delay_s=1_000.0))
    await day.until(DeviceState.CHECKING_IN)
    day.device._rng = Width()

    effect = day.tell(Answered(problem_response(ProblemCode.POPULATION_UNKNOWN)))

    assert effect.until_s == day.now_s + 500.0


async def test_a_refresh_that_is_refused_forgets_the_identity_and_the_assignment(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.OFFERING)
    day.tell(Answered(problem_response(ProblemCode.TOKEN_EXPIRED)))

    effect = day.tell(Answered(problem_response(ProblemCode.POPULATION_UNKNOWN)))

    assert day.device.state is DeviceState.UNENROLLED
    assert ended(day) == [EndReason.IDENTITY_RESET]
    assert isinstance(effect, Wait)
    day.now_s = effect.until_s
    assert "Authorization" not in day.tell(Woke(DeviceStatus())).request.headers
