"""The script against a server that is a table: which calls a phone makes, and what is remembered of them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from keyflock_load_tests.connection import Connection
from keyflock_load_tests.measured_calls import MeasuredCalls
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.phone_script import PhoneState, Visit, VisitConditions
from keyflock_load_tests.scenario import PhonePlan
from keyflock_server.protocol import messages, wire
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.plans import TrainingPlan
from keyflock_server.protocol.problems import ApiError, ProblemCode

RunVirtually = Callable[[Coroutine[Any, Any, None]], None]

SOON = messages.ReturnWindow(min_s=1.0, max_s=2.0)
WORK = messages.Assignment(
    id=AssignmentId("a-1"),
    token="signed",
    task=TaskName("t"),
    round=RoundId("t-1"),
    model_version=ModelVersion(4),
    model_digest=b"\x01" * 32,
    layout=b"\x02" * 16,
    plan=TrainingPlan(learning_rate=0.3),
    codec={},
    seed=1,
    expires_in_s=60.0,
)
SEND = messages.OfferAnswer(action=messages.OfferAction.SEND, return_window=SOON)
ENROLLED = messages.Enrolment(
    device=DeviceId("d-1"), token="new token", expires_in_s=60.0, return_window=SOON
)
COUNTED = messages.Receipt(counted=True, return_window=SOON)
Answer = Message | ApiError | bytes | ConnectionError


class AnsweringServer:
    """Gives each kind of call its answers in turn, and keeps what was asked."""

    def __init__(self, **answers: list[Answer]) -> None:
        self._answers: dict[str, list[Answer]] = {
            "check-ins": [WORK],
            "models": [b"model"],
            "offer": [SEND],
            "report": [COUNTED],
            "failure": [messages.FailureAck(return_window=SOON)],
            "me": [messages.Forgotten(devices=1)],
            "devices": [ENROLLED],
        }
        self._answers |= {name.replace("_", "-"): given for name, given in answers.items()}
        self.asked: list[str] = []
        self.reports: list[bytes] = []
        self.enrolled_with: list[str] = []
        self.lines_opened = 0

    async def send(self, request: Request) -> Response:
        answer = self._next(request)
        if isinstance(answer, ConnectionError):
            raise answer
        if isinstance(answer, ApiError):
            return Response(answer.status, {}, wire.encode(answer.document()))
        return Response(200, {}, answer if isinstance(answer, bytes) else wire.encode(answer))

    async def send_and_hang_up(self, request: Request) -> None:
        self._next(request)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Connection]:
        self.lines_opened += 1
        yield self

    def _next(self, request: Request) -> Answer:
        parts = request.path.strip("/").split("/")
        kind = next(part for part in reversed(parts) if part in self._answers)
        self.asked.append(kind)
        if kind == "devices":
            self.enrolled_with.append(request.headers.get("Authorization", ""))
        if kind == "report":
            self.reports.append(request.body)
        answers = self._answers[kind]
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def visited(
    server: AnsweringServer,
    fate: VisitConditions | None = None,
    *,
    phone: PhoneState | None = None,
    plan: PhonePlan | None = None,
) -> Measurements:
    plan = plan or PhonePlan()
    measurements = Measurements()
    loop = asyncio.get_running_loop()
    open_line: Callable[[], AbstractAsyncContextManager[Connection]] = server.opened
    visit = Visit(
        phone or PhoneState("token", 32),
        fate or VisitConditions(),
        plan,
        "en-US",
        lambda _assignment: b"delta",
        open_line,
        MeasuredCalls(loop.time, measurements, plan.answer_timeout_s),
    )
    await visit.run(loop.time())
    return measurements


def test_a_visit_is_check_in_model_offer_report_and_ends_acknowledged(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server = AnsweringServer()

        measurements = await visited(server, VisitConditions(training_s=7.0))

        assert server.asked == ["check-ins", "models", "offer", "report"]
        assert measurements.receipts.acked == {"a-1"}
        assert measurements.receipts.unsettled == set()
        assert measurements.endings == {"reported": 1}
        visit = measurements.samples[-1]
        assert visit.call == "visit"
        assert visit.latency_s == pytest.approx(0.0)

    run_virtually(main())


def test_a_phone_that_has_the_model_does_not_download_it_again(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server = AnsweringServer()

        await visited(server, phone=PhoneState("token", 32, model_digest=b"\x01" * 32))

        assert server.asked == ["check-ins", "offer", "report"]

    run_virtually(main())


def test_a_refused_phone_goes_away_and_its_reason_is_counted(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        refusal = messages.Refusal(reason=messages.RefusalReason.NOT_SAMPLED, return_window=SOON)

        measurements = await visited(AnsweringServer(check_ins=[refusal]))

        assert measurements.check_ins == {"not_sampled": 1}
        assert measurements.endings == {"refused": 1}

    run_virtually(main())


def test_a_phone_that_drops_out_says_nothing_more(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server = AnsweringServer()

        measurements = await visited(server, VisitConditions(drops_out=True))

        assert server.asked == ["check-ins", "models"]
        assert measurements.endings == {"dropped out": 1}

    run_virtually(main())


def test_a_lost_answer_is_followed_by_the_same_bytes_on_a_new_connection(
    run_virtually: RunVirtually,
) -> None:
    async def main() -> None:
        server = AnsweringServer(
            report=[b"", messages.Receipt(counted=True, duplicate=True, return_window=SOON)]
        )

        measurements = await visited(server, VisitConditions(loses_connection=True))

        assert server.reports[0] == server.reports[1]
        assert server.lines_opened == 2
        assert measurements.receipts.acked == {"a-1"}
        assert measurements.errors() == {}

    run_virtually(main())


def test_a_pending_report_is_sent_again_after_the_pause_the_server_asks_for(
    run_virtually: RunVirtually,
) -> None:
    async def main() -> None:
        pending = ApiError(ProblemCode.REPORT_PENDING, "Waits.", messages.ReturnWindow(min_s=3.0, max_s=4.0))

        measurements = await visited(AnsweringServer(report=[pending, pending, COUNTED]))

        assert asyncio.get_running_loop().time() == pytest.approx(6.0)
        assert measurements.receipts.acked == {"a-1"}
        assert measurements.errors() == {}

    run_virtually(main())


def test_a_report_whose_answer_never_comes_stays_unsettled(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server = AnsweringServer(report=[ConnectionError("reset")])

        measurements = await visited(server, plan=PhonePlan(max_retries=2))

        assert len(server.reports) == 3
        assert measurements.receipts.unsettled == {"a-1"}
        assert measurements.endings == {"failed: gave_up": 1}
        assert measurements.errors() == {"report lost": 3}

    run_virtually(main())


def test_a_refused_report_is_settled_and_not_sent_again(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server = AnsweringServer(report=[ApiError(ProblemCode.ROUND_GONE, "Over.")])

        measurements = await visited(server)

        assert len(server.reports) == 1
        assert measurements.receipts.unsettled == set()
        assert measurements.receipts.acked == set()
        assert measurements.endings == {"too late": 1}

    run_virtually(main())


def test_a_phone_without_a_token_enrols_first_and_one_that_refreshes_shows_its_old_token(
    run_virtually: RunVirtually,
) -> None:
    async def main() -> None:
        server, newcomer, old = AnsweringServer(), PhoneState("", 32), PhoneState("old token", 32)

        await visited(server, phone=newcomer)
        await visited(server, VisitConditions(refreshes=True), phone=old)

        assert server.asked[0] == "devices"
        assert (newcomer.token, old.token) == ("new token", "new token")
        assert server.enrolled_with == ["", "Bearer old token"]

    run_virtually(main())


def test_a_forgotten_phone_has_no_token_and_its_reports_may_have_no_rows(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server, phone = AnsweringServer(), PhoneState("token", 32)

        measurements = await visited(server, VisitConditions(is_forgotten=True), phone=phone)

        assert server.asked[-2:] == ["report", "me"]
        assert phone.token == ""
        assert measurements.forgotten == measurements.receipts.acked == {"a-1"}

    run_virtually(main())


def test_a_phone_that_gives_back_its_work_sends_a_failure_and_no_report(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        server = AnsweringServer()

        measurements = await visited(server, VisitConditions(gives_back=True))

        assert server.asked == ["check-ins", "models", "failure"]
        assert measurements.endings == {"gave back": 1}
        assert measurements.receipts.unsettled == set()

    run_virtually(main())


def test_a_check_in_without_an_answer_is_sent_again_until_there_is_one(run_virtually: RunVirtually) -> None:
    async def main() -> None:
        away = ConnectionError("refused")
        refusal = messages.Refusal(reason=messages.RefusalReason.ROUND_FULL, return_window=SOON)

        measurements = await visited(AnsweringServer(check_ins=[away, away, refusal]))

        assert measurements.endings == {"refused": 1}
        assert measurements.errors() == {"check_in lost": 2}

    run_virtually(main())
