"""What is answered again is not counted again, and no upload is asked for that would count nothing."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report, task_spec

from keyflock_server.coordinator import Coordinator
from keyflock_server.coordinator.events import NullObserver
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    Conditions,
    Failure,
    FailureCause,
    Offer,
    OfferAction,
    OfferAnswer,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.metrics_observer import MetricsObserver

pytestmark = pytest.mark.fault("F12")


@dataclass
class AnswerRecorder(NullObserver):
    """Remembers the answers with work, and what was given back."""

    answers: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)

    def assigned(self, network: str, codec: str, *, is_repeated: bool) -> None:
        self.answers[network, codec, is_repeated] += 1

    def given_back(self, cause: str) -> None:
        self.causes[cause] += 1


@pytest.fixture
async def recorder(harness: CoordinatorHarness) -> AnswerRecorder:
    """Restart the coordinator with a recorder."""
    await harness.coordinator.stop()
    harness.observer = recorder = AnswerRecorder()
    harness.coordinator = harness.another_coordinator()
    await harness.coordinator.start()
    return recorder


async def offered(coordinator: Coordinator, claims: AssignmentClaims) -> OfferAnswer:
    return await coordinator.reports.offer(claims, Offer(size_bytes=9, model_version=claims.model_version))


async def send(coordinator: Coordinator, claims: AssignmentClaims, value: float) -> ProblemCode | None:
    try:
        await coordinator.reports.report(claims, report(constant(value), of=claims))
    except ApiError as refused:
        return refused.code
    return None


async def assigned_by(coordinator: Coordinator, phone: DeviceIdentity) -> Assignment:
    message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=10)
    answer = await coordinator.check_ins.check_in(phone, message)
    assert isinstance(answer, Assignment), answer
    return answer


async def test_an_upload_is_asked_for_until_the_report_is_counted_and_then_no_more(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    claims = [await harness.assigned(await harness.enrol()) for _ in range(4)]

    fresh = await offered(harness.coordinator, claims[0])
    pending = await send(harness.coordinator, claims[0], 1.0)
    waiting = await offered(harness.coordinator, claims[0])
    for one in claims[1:]:
        await send(harness.coordinator, one, 1.0)
    counted = await offered(harness.coordinator, claims[0])

    assert fresh.action is OfferAction.SEND
    # Its bytes are here; sent again, they get their receipt.
    assert (pending, waiting.action) == (ProblemCode.REPORT_PENDING, OfferAction.SEND)
    assert (counted.action, counted.detail) == (OfferAction.DROP, "The report is counted already.")


async def test_a_report_that_another_process_has_counted_is_not_asked_for(
    harness: CoordinatorHarness,
) -> None:
    one, other = harness.another_coordinator("a"), harness.another_coordinator("b")
    for process in (one, other):
        await process.start()
    await harness.coordinator.tasks.create(task_spec(round="goal = 8"), audit=AUDIT)
    for process in (one, other, one, other):
        await process.tick()
    claims = []
    for _ in range(4):
        claims.append(harness.claims(await assigned_by(one, await harness.enrol())))
        assert (await offered(one, claims[-1])).action is OfferAction.SEND  # it knows the assignment
    for each in claims:
        await send(other, each, 1.0)

    answers = [await offered(one, each) for each in claims]
    for process in (one, other):
        await process.stop()

    assert {answer.action for answer in answers} == {OfferAction.DROP}


async def test_an_assignment_is_counted_once_however_often_it_is_answered(
    harness: CoordinatorHarness, recorder: AnswerRecorder
) -> None:
    await harness.task(round="goal = 4", **{"codec_by_network.metered": 'codec = "dense"'})
    phone = await harness.enrol()
    metered = CheckIn(
        protocol=1, app_build=5, locale="en-US", examples=10, conditions=Conditions(is_unmetered=False)
    )

    await harness.assigned(phone)
    await harness.assigned(phone)
    await harness.coordinator.check_ins.check_in(phone, metered)
    await harness.assigned(await harness.enrol())

    assert recorder.answers == {
        ("unmetered", "float32", False): 2,
        ("unmetered", "float32", True): 1,
        ("metered", "dense", True): 1,
    }


async def test_an_assignment_of_another_process_is_answered_again_and_not_counted_again(
    harness: CoordinatorHarness,
) -> None:
    recorders = []
    processes = []
    for name in ("a", "b"):
        harness.observer = AnswerRecorder()
        recorders.append(harness.observer)
        processes.append(harness.another_coordinator(name))
        await processes[-1].start()
    await harness.coordinator.tasks.create(task_spec(round="goal = 8"), audit=AUDIT)
    for process in processes * 2:
        await process.tick()
    phone = await harness.enrol()

    for process in processes:
        await assigned_by(process, phone)
    for process in processes:
        await process.stop()

    assert [recorder.answers for recorder in recorders] == [
        {("unmetered", "float32", False): 1},
        {("unmetered", "float32", True): 1},
    ]


async def test_an_assignment_is_given_back_once_however_often_its_phone_says_so(
    harness: CoordinatorHarness, recorder: AnswerRecorder
) -> None:
    await harness.task(round="goal = 4")
    claims = await harness.assigned(await harness.enrol())
    late = await harness.assigned(await harness.enrol())

    for _ in range(3):
        await harness.coordinator.reports.failure(claims, Failure(cause=FailureCause.INTERRUPTED))
    await harness.coordinator.reports.failure(claims, Failure(cause=FailureCause.NO_EXAMPLES))
    harness.pass_time(700)
    await harness.coordinator.tick()
    await harness.coordinator.reports.failure(late, Failure(cause=FailureCause.TIMED_OUT))

    assert recorder.causes == {"interrupted": 1}


def test_the_figures_tell_new_work_from_repeated() -> None:
    metrics = Metrics()
    observer = MetricsObserver(metrics)

    observer.assigned("slow", "dense", is_repeated=False)
    observer.assigned("slow", "dense", is_repeated=True)
    observer.given_back("timed_out")

    figures = metrics.exposition().decode()
    assert 'keyflock_check_ins_total{outcome="assigned"} 1.0' in figures
    assert 'keyflock_check_ins_total{outcome="repeated"} 1.0' in figures
    assert 'keyflock_assigned_codecs_total{codec="dense",network="slow"} 1.0' in figures
    assert 'keyflock_failures_total{cause="timed_out"} 1.0' in figures


@pytest.mark.fault("F8")
async def test_a_delta_that_no_report_has_room_for_is_not_asked_for(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    claims = await harness.assigned(await harness.enrol())
    actions = []
    for size_bytes in (0, 16_777_215, 16_777_216, 2**31 - 1):
        offer = Offer(size_bytes=size_bytes, model_version=claims.model_version)
        actions.append((await harness.coordinator.reports.offer(claims, offer)).action)

    assert actions == [OfferAction.SEND] * 2 + [OfferAction.DROP] * 2
