"""A fleet's books for the eye: what moves while it runs, and the table at the end."""

from rich.table import Table

from keyflock_client_sim.drivers.books import Books

#: Session shapes that the table shows; rarer ones are summed.
SHOWN_SHAPES = 6


def line(books: Books) -> str:
    """One line that is true now."""
    states = " · ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in sorted(books.states().items())
    )
    version = "none yet" if books.last_version is None else str(books.last_version)
    return (
        f"{_duration(books.now_s)} · model {version} · {books.reports_acked} reports acked · "
        f"{_bytes(books.bytes_up)} up, {_bytes(books.bytes_down)} down · {states}"
    )


def table(books: Books) -> Table:
    """The whole run."""
    page = Table(title=f"{len(books.phones)} phones, {_duration(books.now_s)}", show_header=False)
    page.add_column(style="bold")
    page.add_column(justify="right")
    page.add_row("check-ins", f"{books.check_ins:,}")
    for reason, count in books.turned_away.most_common():
        page.add_row(f"  turned away: {reason.replace('_', ' ')}", f"{count:,}")
    page.add_row("assignments", f"{books.assigned:,}")
    page.add_row("reports acked", f"{books.reports_acked:,}")
    for ending, count in books.endings.most_common():
        page.add_row(f"  ended otherwise: {ending}", f"{count:,}")
    page.add_row("rounds closed, as phones saw it", f"{books.rounds_closed:,}")
    if books.reports_acked:
        page.add_row("bytes a report", _bytes(books.delta_bytes / books.reports_acked))
    page.add_row("bytes up", _bytes(books.bytes_up))
    page.add_row("bytes down", _bytes(books.bytes_down))
    for trouble, count in books.troubles.most_common():
        page.add_row(f"  {trouble.replace('_', ' ')}", f"{count:,}")
    shapes = books.session_shapes.most_common()
    total = sum(count for _, count in shapes)
    for shape, count in shapes[:SHOWN_SHAPES]:
        page.add_row(f"  session {shape.replace('[', chr(92) + '[')}", f"{count / total:.1%}")
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
