"""The section of BENCHMARKS.md about a day."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

from benchmarks.day_figures import MB, DayFigures, mean_of
from benchmarks.day_fleet import ASSIGNED, TICK, TURNED_AWAY
from benchmarks.page import table
from benchmarks.trend import Slope

#: Labels of the calls, in the order of the table.
MEANINGS: Final = {
    TURNED_AWAY: TURNED_AWAY,
    ASSIGNED: ASSIGNED,
    "model": "model download",
    "offer": "offer",
    "report": "report, each sending",
    "failure": "assignment given back",
    "enrol": "enrolment",
    TICK: "pass over what is due",
}
HEADER: Final = ("CPU of the engine, ms", "calls", "median", "mean", "p95", "last quarter to second")


def section(days: Sequence[DayFigures]) -> str:
    """Return the section: of times the median over the days, of all else the first day."""
    first, memory = days[0], days[0].growth
    rows = [_row(name, meaning, days) for name, meaning in MEANINGS.items() if _is_in_every_day(name, days)]
    check_in = _ms(days, lambda day: mean_of(day.costs, (ASSIGNED, TURNED_AWAY)))
    report = _ms(days, lambda day: day.report_s)
    a_round = f"{1e3 * median(day.round_s for day in days):.0f} ms"
    growth = _format_slope(memory)
    verdict = "within noise" if memory.is_noise else "more than noise"
    a_delta = f"{first.delta_bytes / 1e3:.0f} KB"
    row_bytes = {name: f"{size:.0f} bytes" for name, size in first.disk_usage.row_bytes.items()}
    a_version = f"{first.disk_usage.blob_bytes / max(1, first.disk_usage.rows['model_versions']) / MB:.1f} MB"
    return f"""{table(HEADER, rows)}

**{check_in} of CPU a check-in** (mean) and **{report} a report** that is acknowledged, all its sendings
together; {a_round} to close a round and open the next. That is all threads of the process,
SQLite's and the numbers' included; sockets and HTTP are not in it.
**Memory, second half of the day: {growth} MB an hour, {verdict}**; median {first.memory_mb:.0f} MB.

{first.phones:,} phones over {first.hours:g} hours of virtual time: {first.check_ins:,} check-ins;
{first.reports:,} reports of {a_delta} in {first.rounds} rounds (goal 50, full-size network);
{first.all_s:.0f} s of the server's CPU in all. A report that waits for its batch is sent again here, for in
virtual time nobody can wait; a real server answers it once. The interval, 95 %, allows for neighbouring
samples being alike (`load_tests/benchmarks/trend.py`); a sample every quarter of an hour. On the disk,
indexes included: {row_bytes["assignments"]} of the database an assignment, {row_bytes["rounds"]} a round,
{row_bytes["devices"]} a device; {a_version} of blobs a version.
{_repetition_note(days)}
![memory, check-ins and reports by the hour](docs/pictures/day.png)
"""


def _row(name: str, meaning: str, days: Sequence[DayFigures]) -> tuple[str, ...]:
    costs = [day.costs[name] for day in days]
    figures = (
        [cost.median_s for cost in costs],
        [cost.mean_s for cost in costs],
        [cost.p95_s for cost in costs],
    )
    times = (f"{1e3 * median(each):.2f}" for each in figures)
    return meaning, f"{costs[0].calls:,}", *times, f"{median(cost.later_ratio for cost in costs):.2f}"


def _is_in_every_day(name: str, days: Sequence[DayFigures]) -> bool:
    return all(name in day.costs for day in days)


def _ms(days: Sequence[DayFigures], of: Callable[[DayFigures], float]) -> str:
    return f"{1e3 * median(of(day) for day in days):.2f} ms"


def _format_slope(slope: Slope) -> str:
    return f"{slope.per_time:+.2f} [{slope.low:+.2f}, {slope.high:+.2f}]"


def _repetition_note(days: Sequence[DayFigures]) -> str:
    if len(days) == 1:
        return ""
    slopes = ", ".join(_format_slope(day.growth) for day in days)
    return f"Times are medians over {len(days)} days with other phones each; their slopes: {slopes}.\n"
