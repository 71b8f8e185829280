"""A device's ordinary days: what it asks for, in which order, and what it keeps."""

from collections.abc import Callable
from typing import Any

import pytest

from keyflock_client_sim.device.device_events import (
    AssignmentEnded,
    AssignmentReceived,
    DeviceEnrolled,
    EndReason,
    ReportAcked,
)
from keyflock_client_sim.device.effects import Send, Train, Wait
from keyflock_client_sim.device.input_events import Answered, Interrupted, Trained, TrainingFailed, Woke
from keyflock_client_sim.device.installation import DeviceStatus
from keyflock_client_sim.device.states import DeviceState, IllegalTransition
from keyflock_client_sim.testing.scripted_server import success_response
from keyflock_server.protocol import wire
from keyflock_server.protocol.messages import (
    CheckIn,
    Failure,
    FailureCause,
    OfferAction,
    OfferAnswer,
    Refusal,
    RefusalReason,
    Report,
    ReturnWindow,
)

MakeWalk = Callable[..., Any]


async def test_a_device_enrols_checks_in_downloads_trains_offers_and_reports(walk: MakeWalk) -> None:
    day = walk(goal=5)

    await day.until(DeviceState.UPLOADING)
    await day.one()

    assert [send.call.name for send in day.sent] == [
        "enrol",
        "check_in",
        "model",
        "offer",
        "report",
    ]
    assert day.device.state is DeviceState.RESTING
    assert day.device.counters.reports_acked == 1


async def test_a_report_says_what_training_gave_and_the_session_so_far(walk: MakeWalk) -> None:
    day = walk(goal=5)

    await day.until(DeviceState.UPLOADING)

    report = wire.decode(day.device.effect.request.body, Report)
    assert report == Report(
        delta=b"delta", examples=12, loss_before=5.0, loss_after=4.5, train_s=3.0, session_shape="-v[]+"
    )


async def test_a_complete_session_has_the_shape_of_one(walk: MakeWalk) -> None:
    day = walk(goal=5)

    await day.until(DeviceState.UPLOADING)
    await day.one()

    enrolled, assigned, acked = day.device.take_events()
    assert isinstance(enrolled, DeviceEnrolled)
    assert isinstance(assigned, AssignmentReceived)
    assert isinstance(acked, ReportAcked)
    assert acked.session_shape == "-v[]+^"
    assert day.device.take_events() == ()


async def test_a_model_that_the_device_has_is_not_downloaded_again(walk: MakeWalk) -> None:
    day = walk(goal=5)
    await day.until(DeviceState.OFFERING)
    day.server.script("offer", success_response(_offer_answer(OfferAction.REBASE)))
    await day.one()

    await day.until(DeviceState.CHECKING_IN, Send)
    effect = await day.one()

    assert isinstance(effect, Train)
    assert [send.call.name for send in day.sent].count("model") == 1


async def test_a_refusal_is_obeyed_and_the_return_is_drawn_within_its_window(walk: MakeWalk) -> None:
    day = walk()
    window = ReturnWindow(min_s=300.0, max_s=900.0)
    day.server.script(
        "check_in", success_response(Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=window))
    )
    await day.until(DeviceState.CHECKING_IN)

    effect = await day.one()

    assert isinstance(effect, Wait)
    assert effect.when_idle
    assert 300.0 <= effect.until_s - day.now_s <= 900.0


async def test_a_check_in_says_how_the_phone_is_and_how_much_text_it_has(walk: MakeWalk) -> None:
    day = walk()

    await day.until(DeviceState.CHECKING_IN)

    message = wire.decode(day.device.effect.request.body, CheckIn)
    assert (message.app_build, message.locale, message.examples) == (100, "en-US", 12)


@pytest.mark.parametrize(
    ("action", "reason"), [(OfferAction.DROP, EndReason.DROPPED), (OfferAction.REBASE, EndReason.REBASED)]
)
async def test_a_report_that_nobody_wants_is_never_uploaded(
    walk: MakeWalk, action: OfferAction, reason: EndReason
) -> None:
    day = walk()
    await day.until(DeviceState.OFFERING)
    day.server.script("offer", success_response(_offer_answer(action)))

    await day.one()

    *_, ended = day.device.take_events()
    assert isinstance(ended, AssignmentEnded)
    assert (ended.reason, ended.session_shape) == (reason, "-v[]#")
    assert "report" not in [send.call.name for send in day.sent]


async def test_a_rebased_device_does_the_same_assignment_again_when_it_is_asked_to(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.OFFERING)
    day.server.script("offer", success_response(_offer_answer(OfferAction.REBASE)))
    await day.one()

    await day.until(DeviceState.UPLOADING)
    await day.one()

    assert day.device.counters.reports_acked == 1


async def test_a_dropped_assignment_that_comes_again_is_left_alone(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.OFFERING)
    day.server.script("offer", success_response(_offer_answer(OfferAction.DROP)))
    await day.one()

    await day.until(DeviceState.CHECKING_IN)
    await day.one()

    assert day.device.state is DeviceState.RESTING
    assert day.device.counters.assignments == 1


async def test_an_interrupted_training_is_given_back(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.TRAINING)

    effect = day.tell(Interrupted())

    assert isinstance(effect, Send)
    failure = wire.decode(effect.request.body, Failure)
    assert failure == Failure(cause=FailureCause.INTERRUPTED, session_shape="-v[!")
    await day.one()
    assert day.device.state is DeviceState.RESTING


async def test_a_phone_that_comes_back_after_its_assignment_expired_says_nothing(walk: MakeWalk) -> None:
    day = walk(expires_in_s=600.0)
    await day.until(DeviceState.TRAINING)
    day.now_s += 601.0

    effect = day.tell(Interrupted())

    assert isinstance(effect, Wait)
    *_, ended = day.device.take_events()
    assert ended.reason is EndReason.EXPIRED


async def test_a_failed_training_is_given_back_with_its_cause(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.TRAINING)

    effect = day.tell(TrainingFailed(FailureCause.OUT_OF_MEMORY))

    failure = wire.decode(effect.request.body, Failure)
    assert failure == Failure(cause=FailureCause.OUT_OF_MEMORY, session_shape="-v[*")


async def test_training_on_nothing_is_no_report(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.TRAINING)

    effect = day.tell(Trained(delta=b"", examples=0))

    assert wire.decode(effect.request.body, Failure).cause is FailureCause.NO_EXAMPLES


async def test_a_loss_that_is_no_number_is_left_out_of_the_report(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.TRAINING)
    day.tell(Trained(delta=b"delta", examples=3, loss_before=float("nan"), loss_after=float("inf")))

    await day.one()

    report = wire.decode(day.device.effect.request.body, Report)
    assert (report.loss_before, report.loss_after) == (None, None)


async def test_a_damaged_model_is_downloaded_again_and_at_last_given_up(walk: MakeWalk) -> None:
    day = walk()
    await day.until(DeviceState.DOWNLOADING)
    damaged = await day.server.send(day.device.effect.request)
    damaged = type(damaged)(200, damaged.headers, damaged.body[:-1])
    day.server.script("model", damaged, damaged, damaged)

    await day.until(DeviceState.RETURNING)

    assert [send.call.name for send in day.sent].count("model") == 3
    failure = wire.decode(day.device.effect.request.body, Failure)
    assert failure == Failure(cause=FailureCause.DOWNLOAD_FAILED, session_shape="-*")


async def test_bytes_are_counted_both_ways(walk: MakeWalk) -> None:
    day = walk()

    await day.until(DeviceState.UPLOADING)
    await day.one()

    bodies_up = sum(len(send.request.body) for send in day.sent)
    assert day.device.counters.bytes_up == bodies_up > 0
    assert day.device.counters.bytes_down > len(day.server.model_body(0))


async def test_an_illegal_event_raises_and_changes_nothing(walk: MakeWalk) -> None:
    day = walk()
    effect = await day.until(DeviceState.TRAINING)
    response = success_response(_offer_answer(OfferAction.SEND))

    for event in (Woke(DeviceStatus()), Answered(response)):
        with pytest.raises(IllegalTransition, match="training"):
            day.tell(event)

    assert day.device.effect is effect
    assert day.device.state is DeviceState.TRAINING
    assert day.device.session_shape == "-v["


def _offer_answer(action: OfferAction) -> OfferAnswer:
    return OfferAnswer(action=action, return_window=ReturnWindow(min_s=1.0, max_s=2.0))
