"""This module prints a run: latency per call, ends of visits, goals, and whether report counts agree."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyflock_load_tests.measurement import LOST_ON_PURPOSE
from keyflock_load_tests.result import LoadTestResult

_LATENCY_COLUMNS = ("count", "per_s", "p50_ms", "p99_ms", "p999_ms", "max_ms")


def print_report(result: LoadTestResult, console: Console) -> None:
    """Print the result to ``console``."""
    console.print(_latency_table(result))
    measurements = result.measurements
    for name, counts in (
        ("check-ins", measurements.check_ins),
        ("visits", measurements.endings),
        ("errors", measurements.errors()),
    ):
        console.print(f"{name:<12} {_format_counts(counts) or 'none'}", soft_wrap=True)
    cut = sum(sample.outcome == LOST_ON_PURPOSE for sample in measurements.samples)
    console.print(f"cut on purpose after the report was sent: {cut}")
    console.print(_goal_table(result))
    correctness = result.correctness
    equal = "==" if correctness.reports_acked == correctness.reports_counted else "!="
    console.print(
        f"reports acked {correctness.reports_acked:,} {equal} counted {correctness.reports_counted:,}"
        f"   (unsettled {correctness.reports_unsettled})"
    )
    for violation in correctness.violations():
        console.print(f"BROKEN {violation}", style="bold red", soft_wrap=True)
    if not correctness.violations():
        console.print(
            "correct: no report was lost or counted twice, and no answer was a 5xx",
            style="bold green",
            soft_wrap=True,
        )


def _latency_table(outcome: LoadTestResult) -> Table:
    scenario = outcome.scenario
    table = Table(
        title=f"{scenario.name}: {scenario.arrivals.mean_rate_per_s:g} phones/s for "
        f"{scenario.arrivals.duration_s:g} s; latency from the instant each call was due"
    )
    table.add_column("call")
    for column in _LATENCY_COLUMNS:
        table.add_column(column.replace("_", " ", 1), justify="right")
    for call, found in outcome.figures().items():
        if "p99_ms" in found:
            count, *rest = (found[column] for column in _LATENCY_COLUMNS)
            table.add_row(call, f"{count:,.0f}", *(f"{value:,.1f}" for value in rest))
    return table


def _goal_table(outcome: LoadTestResult) -> Table:
    table = Table(title="goals (a missed goal does not fail the run)")
    table.add_column("goal")
    table.add_column("measured", justify="right")
    table.add_column("")
    for verdict in outcome.goal_checks():
        met = Text("met", style="green") if verdict.is_met else Text("missed", style="yellow")
        measured = "not measured" if verdict.measured is None else f"{verdict.measured:,.4g}"
        table.add_row(verdict.goal.sentence.replace("≤", "<="), measured, met)
    return table


def _format_counts(counts: Mapping[str, int]) -> str:
    return " · ".join(
        f"{word} {count:,}" for word, count in sorted(counts.items(), key=lambda item: -item[1])
    )
