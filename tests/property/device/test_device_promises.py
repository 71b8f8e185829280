"""What a device promises under anything that network, server and phone may do."""

import hashlib
import itertools
import random
from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from keyflock_client_sim.device.backoff import MAX_PENDING_S
from keyflock_client_sim.device.effects import Effect, PatchModel, Send, StoreModel, Train, Wait
from keyflock_client_sim.device.input_events import (
    Answered,
    CallLost,
    InputEvent,
    Interrupted,
    ModelStored,
    PatchFailed,
    Trained,
    TrainingFailed,
    Woke,
)
from keyflock_client_sim.device.installation import DeviceStatus, Installation
from keyflock_client_sim.device.machine import Device
from keyflock_client_sim.device.session import MAX_SHAPE
from keyflock_client_sim.device.states import TRANSITIONS, DeviceState, is_legal
from keyflock_client_sim.testing.scripted_server import LAYOUT, problem_response, success_response
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.plans import TrainingPlan
from keyflock_server.protocol.problems import ProblemCode

WINDOW = ReturnWindow(min_s=10.0, max_s=20.0)
MODELS = [b"model 0", b"model 1", b"model 2"]
EXPIRES_IN_S = 300.0
_TRAININGS = itertools.count()


def _assignment(number: int) -> messages.Assignment:
    return messages.Assignment(
        id=AssignmentId(f"a{number}"),
        token=f"t{number}",
        task=TaskName("t"),
        round=RoundId(f"t-{number}"),
        model_version=ModelVersion(number % 3),
        model_digest=hashlib.sha256(MODELS[number % 3]).digest(),
        layout=LAYOUT,
        plan=TrainingPlan(learning_rate=0.1),
        codec={"codec": "float32"},
        seed=number,
        expires_in_s=EXPIRES_IN_S,
        content_digest=bytes(32) if number % 2 else None,
    )


def _good_answers(send: Send) -> st.SearchStrategy[Response]:
    """What a server that keeps its promises may say to this call."""
    match send.call:
        case calls.ENROL:
            enrolment = messages.Enrolment(
                device=DeviceId("d"), token="t", expires_in_s=4_000.0, return_window=WINDOW
            )
            return st.just(success_response(enrolment))
        case calls.CHECK_IN:
            refusals = st.sampled_from(messages.RefusalReason).map(
                lambda reason: success_response(messages.Refusal(reason=reason, return_window=WINDOW))
            )
            # Two assignments only, so that they come again and again.
            assignments = st.integers(0, 1).map(lambda number: success_response(_assignment(number)))
            return st.one_of(assignments, assignments, assignments, refusals)
        case calls.MODEL:
            body = MODELS[int(send.request.path.rpartition("/")[2])]
            whole = Response(200, {}, body)
            if "A-IM" not in send.request.headers:
                return st.just(whole)
            base = send.request.headers["If-None-Match"].split(", ")[0]
            headers = {
                "im": calls.MODEL_DELTA,
                "etag": f'"{hashlib.sha256(body).hexdigest()}"',
                "delta-base": base,
            }
            return st.sampled_from([whole, Response(226, headers, b"delta")])
        case calls.OFFER:
            return st.sampled_from(messages.OfferAction).map(
                lambda action: success_response(messages.OfferAnswer(action=action, return_window=WINDOW))
            )
        case calls.REPORT:
            receipts = st.tuples(st.booleans(), st.booleans())
            return receipts.map(
                lambda message: success_response(
                    messages.Receipt(counted=message[0], duplicate=message[1], return_window=WINDOW)
                )
            )
        case _:
            return st.just(success_response(messages.FailureAck(return_window=WINDOW)))


_BAD_ANSWERS = (
    st.sampled_from(ProblemCode).map(problem_response)
    | st.sampled_from([200, 204, 226, 301, 304, 400, 404, 418, 429, 500, 502, 503]).map(
        lambda status: Response(status, {}, b"<html>")
    )
    | st.binary(max_size=20).map(lambda body: Response(200, {}, body))
)


def _events(effect: Effect) -> st.SearchStrategy[InputEvent]:
    """Everything that a driver may tell a device that wants this."""
    match effect:
        case Wait():
            return st.just(Woke(DeviceStatus(examples=5)))
        case Send():
            good = _good_answers(effect)
            answered = good.map(Answered)
            # Good answers come more often, or no walk would ever get far.
            return st.one_of(*[answered] * 6, _BAD_ANSWERS.map(Answered), st.just(CallLost()))
        case StoreModel():
            return st.just(ModelStored())
        case PatchModel():
            return st.sampled_from([ModelStored(), PatchFailed()])
        case Train():
            examples = st.sampled_from([3, 3, 3, 0])
            # No two deltas are the same, as on a phone that has new text by the second training.
            trained: st.SearchStrategy[InputEvent] = examples.map(
                lambda count: Trained(delta=f"{next(_TRAININGS)}".encode(), examples=count)
            )
            return st.one_of(trained, trained, trained, st.just(TrainingFailed()))


def _is_pending(event: InputEvent) -> bool:
    """Return whether the server says that it has the report, and asks for patience."""
    return isinstance(event, Answered) and b"report_pending" in event.response.body


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_happens_a_device_goes_on_and_reports_each_assignment_once(data: st.DataObject) -> None:
    device = Device(
        Installation(population=PopulationName("p"), app_build=1, locale="en"),
        random.Random(data.draw(st.integers(0, 100))),
    )
    now_s = 0.0
    reports: dict[str, set[bytes]] = defaultdict(set)
    ends_at_s = 0.0

    for _ in range(data.draw(st.integers(30, 60))):
        effect, before, was_busy = device.effect, device.state, device.session_shape != ""
        events = _events(effect)
        if is_legal(before, effect, Interrupted()):
            events = st.one_of(*[events] * 8, st.just(Interrupted()))
        event = data.draw(events)
        wait_s = max(effect.until_s - now_s, 0.0) if isinstance(effect, Wait) else 0.0
        now_s += wait_s + data.draw(st.sampled_from([0.0, 0.0, 0.1, 0.1, 5.0, 400.0]))

        wanted = device.step(event, now_s)

        assert device.state in TRANSITIONS[before][type(event)]
        if not was_busy:
            ends_at_s = now_s + EXPIRES_IN_S
        if before is DeviceState.UPLOADING and _is_pending(event):
            ends_at_s = max(ends_at_s, now_s + MAX_PENDING_S)
        assert len(device.session_shape) <= MAX_SHAPE
        match wanted:
            case Wait(until_s):
                assert until_s >= now_s
                is_in_session = device.session_shape != "" and device.state is not DeviceState.REFRESHING
                assert not is_in_session or until_s < ends_at_s
            case Send(call, request) if call is calls.REPORT:
                reports[request.path].add(request.body)
                wire.decode(request.body, messages.Report)
            case _:
                pass
        assert all(len(bodies) == 1 for bodies in reports.values())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_after_any_trouble_a_good_server_gets_a_report_within_a_few_steps(data: st.DataObject) -> None:
    device = Device(Installation(population=PopulationName("p"), app_build=1, locale="en"), random.Random(1))
    now_s = 0.0
    for _ in range(data.draw(st.integers(0, 40))):
        effect = device.effect
        now_s = max(now_s, effect.until_s) if isinstance(effect, Wait) else now_s
        device.step(data.draw(_events(effect)), now_s)
    before = device.counters.reports_acked

    for number in range(100, 160):
        effect = device.effect
        match effect:
            case Wait(until_s):
                now_s = max(now_s, until_s)
                device.step(Woke(DeviceStatus(examples=5)), now_s)
            case Send():
                device.step(Answered(_best_answer(effect, number)), now_s)
            case StoreModel() | PatchModel():
                device.step(ModelStored(), now_s)
            case Train():
                device.step(Trained(delta=b"delta", examples=2), now_s)

    assert device.counters.reports_acked > before


def _best_answer(send: Send, number: int) -> Response:
    match send.call:
        case calls.ENROL:
            enrolment = messages.Enrolment(
                device=DeviceId("d"), token="t", expires_in_s=86_400.0, return_window=WINDOW
            )
            return success_response(enrolment)
        case calls.CHECK_IN:
            return success_response(_assignment(number))
        case calls.MODEL:
            return Response(200, {}, MODELS[int(send.request.path.rpartition("/")[2])])
        case calls.OFFER:
            return success_response(
                messages.OfferAnswer(action=messages.OfferAction.SEND, return_window=WINDOW)
            )
        case calls.REPORT:
            return success_response(messages.Receipt(counted=True, return_window=WINDOW))
        case _:
            return success_response(messages.FailureAck(return_window=WINDOW))
