"""This module prints a run: latency per call, ends of visits, goals, and whether the books agree."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyflock_load_tests.result import LoadReport

_LATENCY_COLUMNS = ("count", "per_s", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")
_SINGLE_ROWS = ("server", "flush", "phones", "generator", "outage", "honest")


def print_report(report: LoadReport, console: Console) -> None:
    """Print the result to ``console``."""
    console.print(_latency_table(report))
    for name, counts in (
        ("check-ins", report.check_ins),
        ("visits", report.endings),
        ("errors", report.errors),
    ):
        console.print(f"{name:<12} {_format_counts(counts) or 'none'}", soft_wrap=True)
    for row in _SINGLE_ROWS:
        if row in report.figures:
            pairs = " · ".join(f"{name} {value:,.4g}" for name, value in report.figures[row].items())
            console.print(f"{row:<12} {pairs}", soft_wrap=True)
    for ceiling in report.ceilings:
        share = "" if ceiling.reached_ratio is None else f", of which {ceiling.reached_ratio:.0%} was reached"
        console.print(f"ceiling      {ceiling.name}: {ceiling.per_s:,.0f}/s{share}", soft_wrap=True)
    console.print(_goal_table(report))
    books = report.correctness
    equal = "==" if books.reports_acked == books.reports_counted else "!="
    console.print(
        f"reports acked {books.reports_acked:,} {equal} counted {books.reports_counted:,}"
        f"   (unsettled {books.reports_unsettled}, lost {books.reports_lost},"
        f" unknown {books.reports_unknown})"
    )
    for violation in report.violations:
        console.print(f"BROKEN {violation}", style="bold red", soft_wrap=True)
    if not report.violations:
        console.print(
            "correct: no report was lost or counted twice, and no answer was a 5xx",
            style="bold green",
            soft_wrap=True,
        )


def _latency_table(report: LoadReport) -> Table:
    parameters = " · ".join(f"{name} {text}" for name, text in report.parameters.items())
    table = Table(title=f"{report.scenario}: {parameters}; latency from the instant each call was due")
    table.add_column("call")
    for column in _LATENCY_COLUMNS:
        table.add_column(column.replace("_", " ", 1), justify="right")
    for call, found in report.calls.items():
        count, *rest = (getattr(found, column) for column in _LATENCY_COLUMNS)
        table.add_row(call, f"{count:,.0f}", *(f"{value:,.1f}" for value in rest))
    return table


def _goal_table(report: LoadReport) -> Table:
    table = Table(title="goals (a missed goal does not fail the run)")
    table.add_column("goal")
    table.add_column("measured", justify="right")
    table.add_column("")
    for goal in report.goals:
        met = Text("met", style="green") if goal.is_met else Text("missed", style="yellow")
        measured = "not measured" if goal.measured is None else f"{goal.measured:,.4g}"
        table.add_row(goal.goal.replace("≤", "<=").replace("≥", ">="), measured, met)
    return table


def _format_counts(counts: Mapping[str, int]) -> str:
    return " · ".join(f"{word} {count:,}" for word, count in counts.items())
