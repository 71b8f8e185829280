import json

import pytest
from rich.console import Console

from keyflock_load_tests.correctness import Correctness
from keyflock_load_tests.measurement import Measurements, Sample
from keyflock_load_tests.observation import ServerUsage
from keyflock_load_tests.report import print_report
from keyflock_load_tests.result import LoadTestResult
from keyflock_load_tests.scenario import ArrivalPlan, Goal, PhonePlan, Scenario, TaskPlan


def counts(
    *,
    acked: int = 5,
    counted: int = 5,
    unsettled: int = 0,
    twice: int = 0,
    failures: int = 0,
    alive: bool = True,
) -> Correctness:
    return Correctness(acked, counted, unsettled, twice, failures, alive)


def outcome(correctness: Correctness | None = None) -> LoadTestResult:
    scenario = Scenario(
        name="tiny",
        purpose="A test.",
        arrivals=ArrivalPlan(mean_rate_per_s=1.0, duration_s=2.0),
        phones=PhonePlan(),
        task=TaskPlan(),
        goals=(Goal("check_in", "p99_ms", 150.0), Goal("server", "peak_rss_mib", 10.0), Goal("x", "y", 1.0)),
    )
    measurements = Measurements(lateness_s=[0.001, 0.002])
    measurements.samples += [Sample("check_in", 0.0, 0.0, 0.1, "ok", 200)] * 2
    return LoadTestResult(
        scenario, measurements, (ServerUsage(0.5, 20.0, 0.3),), correctness or counts(), 1_234, 3.0
    )


def test_equal_books_are_correct() -> None:
    assert counts().violations() == ()


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (counts(acked=5, counted=4), "lost"),
        (counts(acked=5, counted=7, unsettled=1), "double"),
        (counts(twice=1), "twice"),
        (counts(failures=2), "5xx"),
        (counts(alive=False), "ended"),
    ],
)
def test_what_is_broken_is_said_in_a_sentence(broken: Correctness, word: str) -> None:
    (violation,) = broken.violations()

    assert word in violation


def test_a_report_of_unknown_fate_may_be_counted_or_not() -> None:
    assert counts(acked=5, counted=5, unsettled=1).violations() == ()
    assert counts(acked=5, counted=6, unsettled=1).violations() == ()


def test_goals_are_held_against_the_figures_and_a_missing_figure_is_a_miss() -> None:
    met, missed, unknown = outcome().goal_checks()

    assert met.measured == pytest.approx(100.0)
    assert met.is_met
    assert (missed.measured, missed.is_met) == (20.0, False)
    assert (unknown.measured, unknown.is_met) == (None, False)


def test_the_summary_is_one_line_of_json_with_the_books_in_it() -> None:
    summary = json.loads(json.dumps(outcome(counts(counted=4)).summary()))

    assert summary["scenario"] == "tiny"
    assert summary["correctness"]["reports_acked"] == 5
    assert summary["correctness"]["violations"] != []
    assert summary["goals"][0] == {"goal": "check_in p99_ms ≤ 150", "measured": 100.0, "met": True}


def test_the_printed_report_names_goals_and_what_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(outcome(counts(counted=4)), Console(width=120))

    output = capsys.readouterr().out
    assert "BROKEN" in output
    assert "missed" in output
    assert "reports acked 5 != counted 4" in output
