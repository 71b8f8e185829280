"""This module formats a fleet's statistics: a status line while it runs, and a table at the end."""

from rich.table import Table
from rich.text import Text

from keyflock_client_sim.drivers.fleet_stats import FleetStats

#: Session shapes that the table shows; rarer ones are summed.
SHOWN_SHAPES = 6


def status_line(stats: FleetStats) -> str:
    """Return one line on the fleet as it is now."""
    states = " · ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in sorted(stats.states().items())
    )
    version = "none yet" if stats.last_version is None else str(stats.last_version)
    return (
        f"{_duration(stats.now_s)} · model {version} · {stats.reports_acked} reports acked · "
        f"{_bytes(stats.bytes_up)} up, {_bytes(stats.bytes_down)} down · {states}"
    )


def unacknowledged_hint(stats: FleetStats) -> str:
    """Say why reports were sent and none was acknowledged, where that is so; else an empty text."""
    waited = sum(count for trouble, count in stats.call_errors.items() if trouble.endswith("report_pending"))
    if stats.reports_acked or not waited:
        return ""
    return (
        "no report was acknowledged: a report waits until the server has enough distinct ones to store their "
        "sum, four unless the task says otherwise ([round] min_flush_clients); keyflock task show says how "
        "many wait"
    )


def summary_table(stats: FleetStats) -> Table:
    """Return the table of the whole run."""
    page = Table(title=f"{len(stats.phones)} phones, {_duration(stats.now_s)}", show_header=False)
    page.add_column(style="bold")
    page.add_column(justify="right")
    page.add_row("check-ins", f"{stats.check_ins:,}")
    for reason, count in stats.rejected.most_common():
        page.add_row(f"  turned away: {reason.replace('_', ' ')}", f"{count:,}")
    page.add_row("assignments", f"{stats.assigned:,}")
    page.add_row("reports acked", f"{stats.reports_acked:,}")
    for ending, count in stats.endings.most_common():
        page.add_row(f"  ended otherwise: {ending}", f"{count:,}")
    page.add_row("rounds closed, as phones saw it", f"{stats.rounds_closed:,}")
    if stats.reports_acked:
        page.add_row("bytes a report", _bytes(stats.delta_bytes / stats.reports_acked))
    page.add_row("bytes up", _bytes(stats.bytes_up))
    page.add_row("bytes down", _bytes(stats.bytes_down))
    for trouble, count in stats.call_errors.most_common():
        page.add_row(f"  {trouble.replace('_', ' ')}", f"{count:,}")
    shapes = stats.session_shapes.most_common()
    total = sum(count for _, count in shapes)
    for shape, count in shapes[:SHOWN_SHAPES]:
        page.add_row(Text(f"  session {shape}"), f"{count / total:.1%}")
    if rest := sum(count for _, count in shapes[SHOWN_SHAPES:]):
        page.add_row("  other sessions", f"{rest / total:.1%}")
    return page


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} GB"
