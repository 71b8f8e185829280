import json

import msgspec
import pytest
from rich.console import Console

from keyflock_load_tests.books import StoredCounts
from keyflock_load_tests.call_log import logs_of_samples
from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.figures import call_rows
from keyflock_load_tests.html_report import render
from keyflock_load_tests.measurement import Sample
from keyflock_load_tests.observation import ServerUsage
from keyflock_load_tests.receipts import Receipts
from keyflock_load_tests.report import print_report
from keyflock_load_tests.result import Ceiling, LoadReport, Mark, check_goals
from keyflock_load_tests.scenario import Goal

GOALS = (
    Goal("check_in", "p99_ms", 150.0),
    Goal("server", "peak_rss_mib", 10.0),
    Goal("x", "y", 1.0),
    Goal("check_in", "per_s", 0.5, is_minimum=True),
)


def books(
    *,
    acked: tuple[str, ...] = ("a", "b", "c"),
    unsettled: tuple[str, ...] = (),
    counted: tuple[str, ...] = ("a", "b", "c"),
    in_rounds: int = 3,
    forgotten: tuple[str, ...] = (),
    twice: tuple[str, ...] = (),
    failures: int = 0,
    surprise: str = "",
    alive: bool = True,
    rss_mib: float = 300.0,
) -> Correctness:
    return Correctness.compared(
        Receipts(acked=set(acked), unsettled=set(unsettled), acked_twice=set(twice)),
        StoredCounts(frozenset(counted), in_rounds, {"closed": 1}),
        forgotten=set(forgotten),
        server_failures=failures,
        hostile_surprises={surprise: 1} if surprise else {},
        is_server_alive=alive,
        peak_rss_mib=rss_mib,
        max_rss_mib=500.0,
    )


def report_of(correctness: Correctness) -> LoadReport:
    samples = [
        Sample("check_in", second / 10, second / 10, second / 10 + 0.1, "ok", 200) for second in range(20)
    ]
    logs = logs_of_samples(samples)
    calls = {call: log.figures(2.0) for call, log in logs.items()}
    figures = {**call_rows(calls), "server": {"peak_rss_mib": 20.0}}
    return LoadReport(
        scenario="tiny",
        purpose="A test <of the page>.",
        parameters={"visits": "10/s for 2 s"},
        machine="a machine",
        began_at="2026-01-01T00:00:00+00:00",
        duration_s=2.0,
        seconds=3.0,
        correctness=correctness,
        violations=correctness.violations(),
        figures=figures,
        goals=check_goals(GOALS, figures),
        calls=calls,
        timelines={call: log.timeline(2.0) for call, log in logs.items()},
        check_ins={"not_sampled": 20},
        endings={"refused": 20},
        errors={},
        servers=[[ServerUsage(at_s=at, rss_mib=20.0, cpu_ratio=0.3) for at in (0.5, 1.0)]],
        flushes=[(4.0, 2), (None, 1)],
        ceilings=[Ceiling(name="bare handler", per_s=100.0, reached_per_s=25.0)],
        marks=[Mark(1.0, "killed")],
    )


def test_equal_books_are_correct() -> None:
    assert books().violations() == ()


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (books(counted=("a", "b")), "lost"),
        (books(counted=("a", "b", "c", "d")), "no phone can have sent"),
        (books(in_rounds=2), "missing in the rounds' sums"),
        (books(in_rounds=4), "too many"),
        (books(twice=("a",)), "twice"),
        (books(failures=2), "5xx"),
        (books(surprise="garbage_body: 200"), "garbage_body: 200"),
        (books(alive=False), "ended"),
        (books(rss_mib=501.0), "memory"),
    ],
)
def test_what_is_broken_is_said_in_a_sentence(broken: Correctness, word: str) -> None:
    (violation,) = broken.violations()

    assert word in violation


def test_a_lost_report_is_seen_though_another_is_counted_in_its_place() -> None:
    wrong = books(counted=("a", "b", "d"))

    assert [violation.split()[0] for violation in wrong.violations()] == ["1", "1"]
    assert (wrong.lost, wrong.double) == (1, 1)


def test_lost_and_double_reports_are_those_of_the_rows_or_of_the_sums() -> None:
    assert (books().lost, books().double) == (0, 0)
    assert (books(in_rounds=1).lost, books(in_rounds=5).double) == (2, 2)
    assert books(twice=("a",)).double == 1
    assert books(unsettled=("u",), in_rounds=4).double == 0


def test_a_report_of_unknown_fate_may_be_counted_or_not() -> None:
    assert books(unsettled=("u",)).violations() == ()
    assert books(unsettled=("u",), counted=("a", "b", "c", "u"), in_rounds=4).violations() == ()


def test_a_forgotten_device_has_no_rows_and_its_report_stays_in_the_sum() -> None:
    assert books(counted=("a", "b"), forgotten=("c",)).violations() == ()
    assert books(counted=("a", "b"), forgotten=("c",), in_rounds=2).violations() != ()


def test_goals_are_held_against_the_figures_and_a_missing_figure_is_a_miss() -> None:
    met, missed, unknown, at_least = report_of(books()).goals

    assert met.measured == pytest.approx(100.0, rel=2e-3)
    assert met.is_met
    assert (missed.measured, missed.is_met) == (20.0, False)
    assert (unknown.measured, unknown.is_met) == (None, False)
    assert (at_least.goal, at_least.is_met) == ("check_in per_s ≥ 0.5", True)


def test_the_result_is_json_that_can_be_read_again() -> None:
    report = report_of(books(counted=("a", "b")))

    line = msgspec.json.encode(report)

    assert msgspec.json.decode(line, type=LoadReport) == report
    assert json.loads(line)["correctness"]["reports_lost"] == 1


def test_the_printed_report_names_goals_and_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(report_of(books(in_rounds=2)), Console(width=160))

    output = capsys.readouterr().out
    assert "BROKEN" in output
    assert "missed" in output
    assert "reports acked 3 != counted 2" in output


def test_the_page_says_whether_all_was_correct_and_needs_nothing_else() -> None:
    good, bad = render(report_of(books())), render(report_of(books(counted=("a",), in_rounds=1)))

    assert "Correct: 3 reports acknowledged" in good
    assert "2 acknowledged reports are counted by no row" in bad
    assert "A test &lt;of the page&gt;." in good
    for outside in ("http://", "https://", "src=", "@import", "url("):
        assert outside not in good


def test_the_page_has_a_curve_of_percentiles_and_the_run_over_time_with_its_marks() -> None:
    page = render(report_of(books()))

    assert page.count("<svg") == 7  # percentiles, rate, p50, p99, CPU, memory, files; nobody told of lag
    assert page.count("killed") >= 5
    assert "99 %" in page
