"""What a stream's phones do after each answer, and what their books say in the end."""

import numpy as np
import pytest

from keyflock_compression import DEFAULT_SPEC, encode
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.payload import synthetic_delta
from keyflock_load_tests.streams import StreamResult, StreamScript
from keyflock_load_tests.traffic import LOST, UNANSWERED, PlannedCall, TrafficRecord
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.protocol import messages, wire
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.plans import TrainingPlan
from keyflock_server.protocol.problems import ApiError, ProblemCode

LAYOUT = ParamLayout.for_config(ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3))
SOON = messages.ReturnWindow(min_s=3.0, max_s=4.0)
COUNTED = wire.encode(messages.Receipt(counted=True, return_window=SOON))
PENDING = wire.encode(ApiError(ProblemCode.REPORT_PENDING, "Waits.", SOON).document())
GONE = wire.encode(ApiError(ProblemCode.ROUND_GONE, "Over.").document())
REFUSED = wire.encode(messages.Refusal(reason=messages.RefusalReason.NOT_SAMPLED, return_window=SOON))


def work(number: int = 1) -> bytes:
    return wire.encode(
        messages.Assignment(
            id=AssignmentId(f"a-{number}"),
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
    )


def deltas() -> DistinctDeltas:
    vector = synthetic_delta(LAYOUT, np.random.default_rng(1))
    return DistinctDeltas([encode(vector, LAYOUT, DEFAULT_SPEC, seed=0)])


def assigned(script: StreamScript) -> PlannedCall:
    script.first(0)
    report = script.next(0, "check_in", 200, work())
    assert report is not None
    return report


def test_a_phone_that_gets_work_reports_and_is_acknowledged() -> None:
    script = StreamScript([b"one", b"two"], deltas())

    report = assigned(script)
    after = script.next(0, "report", 200, COUNTED)

    assert report.name == "report"
    assert b"/v1/assignments/a-1/report" in report.request
    assert after is None
    assert (script.books.receipts.acked, script.books.receipts.unsettled) == ({"a-1"}, set())
    assert script.books.check_ins == {"assignment": 1}


def test_a_refused_phone_goes_away_and_the_next_one_comes() -> None:
    script = StreamScript([b"one", b"two"], None)

    first, second, third = (script.first(visit).request for visit in range(3))

    assert script.next(0, "check_in", 200, REFUSED) is None
    assert script.books.check_ins == {"not_sampled": 1}
    assert (b"Bearer one" in first, b"Bearer two" in second) == (True, True)
    assert third == first


@pytest.mark.parametrize(("status", "body", "pause_s"), [(503, PENDING, 3.0), (LOST, b"", 0.5)])
def test_a_report_without_an_answer_goes_again_the_same_bytes(
    status: int, body: bytes, pause_s: float
) -> None:
    script = StreamScript([b"one"], deltas())
    report = assigned(script)

    again = script.next(0, "report", status, body)

    assert again == PlannedCall("report", report.request, after_s=pause_s)
    assert script.books.receipts.unsettled == {"a-1"}


def test_a_report_refused_at_once_is_settled_and_one_refused_later_may_be_counted() -> None:
    at_once, later = StreamScript([b"one"], deltas()), StreamScript([b"one"], deltas())

    assigned(at_once)
    at_once.next(0, "report", 410, GONE)
    assigned(later)
    later.next(0, "report", UNANSWERED, b"")
    later.next(0, "report", 410, GONE)

    assert at_once.books.receipts.unsettled == set()
    assert later.books.receipts.unsettled == {"a-1"}
    assert at_once.books.problems == {"report round_gone": 1}


def test_scripts_that_share_deltas_send_no_two_alike() -> None:
    shared = deltas()
    scripts = [StreamScript([b"one"], shared, number, 2) for number in range(2)]
    sent = set()

    for script in scripts:
        for visit in range(3):
            call = script.next(visit, "check_in", 200, work(visit))
            assert call is not None
            sent.add(call.request.partition(b"\r\n\r\n")[2])

    assert len(sent) == 6


def test_the_books_of_all_generators_become_those_of_the_run() -> None:
    scripts = [StreamScript([b"one"], deltas(), number, 2) for number in range(2)]
    for number, script in enumerate(scripts):
        script.next(0, "check_in", 200, work(number))
        script.next(0, "report", 200, COUNTED)
    result = StreamResult(5.0, tuple(record(script) for script in scripts))
    measurements = Measurements()

    result.add_to(measurements)
    logs = result.logs(" (herd)")

    assert measurements.receipts.acked == {"a-0", "a-1"}
    assert measurements.check_ins == {"assignment": 2}
    assert measurements.server_failures() == 2
    assert measurements.errors() == {"check_in lost": 2}
    assert logs["check_in (herd)"].outcomes == {"ok": 2, "lost": 2, "http_500": 2}
    assert logs["check_in (herd)"].due_s.tolist() == [6.0, 6.0] * 2  # a lost call has no latency


def test_a_generator_that_burnt_its_core_to_be_on_time_has_no_cpu_share() -> None:
    records = (record(StreamScript([b"one"], None)),)

    assert StreamResult(0.0, records).generator_row()["stream_cpu_ratio"] == pytest.approx(0.05)
    assert "stream_cpu_ratio" not in StreamResult(0.0, records, has_spun=True).generator_row()


def record(script: StreamScript) -> TrafficRecord:
    """Three check-ins: one answered, one lost, one that broke the server."""
    ones = np.ones(3)
    return TrafficRecord(
        duration_s=2.0,
        names=("check_in",),
        call=np.zeros(3, np.int8),
        visit=np.arange(3, dtype=np.int32),
        due_s=ones,
        sent_s=ones,
        ended_s=ones + 0.1,
        status=np.array([200, LOST, 500], np.int16),
        unbegun=0,
        cpu_s=0.1,
        wall_s=2.0,
        books=script.books,
    )
