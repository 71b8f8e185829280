"""What the benchmark of one server core makes of records, and that it runs from end to end."""

import json

import pytest
from tests.unit.load_tests.traffic_records import traffic_record

from benchmarks.server import TINY, measure
from benchmarks.server_close import close_figures
from benchmarks.server_measurements import goodput_per_s, recovery_s
from benchmarks.server_page import section
from benchmarks.server_phones import CHECK_IN, REPORT, ReportBooks
from keyflock_load_tests.receipts import Receipts
from keyflock_server.protocol import wire
from keyflock_server.protocol.messages import Receipt, ReturnWindow

KEYS = {
    "reports_per_s",
    "report_over_ceiling",
    "delta_bytes",
    "checkins_per_s",
    "checkin_cpu_over_bare",
    "checkin_p99_ms_at_70",
    "assigned_per_s",
    "report_p99_ms_at_70",
    "download_over_bare",
    "close_stall_ms",
    "rss_mb",
    "lost",
    "double",
}


def receipt(*, is_duplicate: bool = False) -> bytes:
    window = ReturnWindow(min_s=1.0, max_s=2.0)
    return wire.encode(Receipt(counted=True, duplicate=is_duplicate, return_window=window))


def test_a_server_has_recovered_when_the_last_slow_call_was_due() -> None:
    calls = traffic_record(CHECK_IN, [0.5, 1.5, 2.5, 3.5], [9.0, 0.2, 0.3, 0.01])

    assert recovery_s(calls, CHECK_IN, 1.0, limit_s=0.25) == pytest.approx(1.5)
    assert recovery_s(calls, CHECK_IN, 3.0, limit_s=0.25) == 0.0


def test_goodput_counts_what_the_server_works_off_when_the_overload_is_over() -> None:
    # 20 calls a second for two seconds, of which each flush acknowledges what came in a second 2 s later.
    due_s = [0.05 * number for number in range(40)]
    took_s = [2.0 - at_s if at_s < 1.0 else 4.0 - at_s for at_s in due_s]
    later_s = [2.5, 3.5]
    calls = traffic_record(REPORT, [*due_s, *later_s], [*took_s, 0.5, 9.0])

    assert goodput_per_s(calls, calls.of(REPORT), 2.0) == pytest.approx(41 / 4.0)
    assert goodput_per_s(calls, calls.due_s < 1.0, 2.0) == pytest.approx(10.0)  # the others were refused


def test_a_stall_is_what_the_slowest_report_took_longer_than_usual() -> None:
    due_s = [0.1 * number for number in range(130)]
    took_s = [0.01] * 130
    took_s[10] = 5.0  # before the first time that is looked at
    took_s[80], took_s[120] = 0.26, 0.11  # half a second and two seconds after a round began to fill

    figures = close_figures(traffic_record(REPORT, due_s, took_s), [2.5, 5.0], [7.5, 10.0], 2, 10.0)

    assert figures.stalls_ms == pytest.approx((250.0, 100.0))
    assert figures.stall_ms == pytest.approx(175.0)
    assert figures.usual_ms == pytest.approx(10.0)


def test_the_books_settle_a_report_whose_first_answer_was_lost() -> None:
    books = ReportBooks()

    books.record("a", b"request", 0, b"")
    assert books.unanswered == {"a": b"request"}
    books.record("a", b"request", 200, receipt(is_duplicate=True))

    assert (books.unanswered, books.receipts) == ({}, Receipts(acked={"a"}))


def test_the_books_notice_a_report_that_is_acknowledged_twice_as_new() -> None:
    books = ReportBooks()

    for _ in range(2):
        books.record("a", b"request", 200, receipt())

    assert books.receipts.acked_twice == {"a"}


def test_a_report_refused_at_once_is_settled_and_one_refused_later_may_be_counted() -> None:
    books = ReportBooks()

    books.record("at once", b"request", 410, b"")
    books.record("later", b"request", 503, b"")
    books.record("later", b"request", 410, b"")

    assert books.receipts == Receipts(unsettled={"later"})
    assert (books.unanswered, books.refused) == ({}, {410: 2})


@pytest.mark.slow
def test_a_tiny_run_loses_nothing_and_ends_with_its_line() -> None:
    figures = measure(TINY)

    line = json.loads(json.dumps(figures.line()))
    assert set(line) == KEYS
    assert (line["lost"], line["double"]) == (0, 0)
    assert figures.correctness.violations() == ()
    assert figures.correctness.reports_acked > 0
    assert figures.kinds["not_sampled"] > 0
    assert "0 lost, 0 double" in section(figures)
