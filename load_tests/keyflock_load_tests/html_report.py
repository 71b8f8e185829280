"""The page of a run: one HTML file that needs nothing but itself, made from the result alone.

First whether all was correct, then what a reader asks next: how fast, for whom not, when, and what it cost
the server.
"""

import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Final

from keyflock_load_tests.measurement import BAD_PHONE, VISIT
from keyflock_load_tests.observation import USAGE_EVERY_S
from keyflock_load_tests.result import LoadReport
from keyflock_load_tests.svg_charts import Axis, Chart, Series, y_axis

_COLOURS: Final = 8
_COLUMNS: Final = ("count", "per_s", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")
#: A server that nothing is known of for so long was not there.
_AWAY_S: Final = 4 * USAGE_EVERY_S
_HERE: Final = Path(__file__).parent


def render(report: LoadReport) -> str:
    """Return the page."""
    style = (_HERE / "report_page.css").read_text(encoding="utf-8")
    script = (_HERE / "report_page.js").read_text(encoding="utf-8")
    body = "\n".join(
        [
            _head(report),
            _tiles(report),
            _goals(report),
            "<h2>Latency by percentile</h2>",
            _percentiles(report),
            "<h2>Over time</h2>",
            *(chart.to_svg() for chart in _timelines(report)),
            "<h2>All calls</h2>",
            _call_table(report),
            _counts(report),
            _ceilings(report),
            "<h2>All figures</h2>",
            _figure_table(report),
            _foot(report),
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.scenario)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main><script>{script}</script></body></html>\n"
    )


def _head(report: LoadReport) -> str:
    facts = "".join(
        f"<li>{escape(name)} <b>{escape(text)}</b></li>" for name, text in report.parameters.items()
    )
    books = report.correctness
    if report.violations:
        broken = "".join(f"<li>{escape(violation)}</li>" for violation in report.violations)
        verdict = f'<div class="verdict bad">Broken<ul>{broken}</ul></div>'
    else:
        counted = f"{books.reports_acked:,} reports acknowledged, each counted once"
        verdict = (
            f'<div class="verdict good">Correct: {counted if books.reports_acked else "no report was due"}; '
            "no answer was a 5xx other than 503.</div>"
        )
    return (
        f'<h1>{escape(report.scenario)}</h1><p class="purpose">{escape(report.purpose)}</p>'
        f'<ul class="facts">{facts}</ul>{verdict}'
    )


def _foot(report: LoadReport) -> str:
    return (
        f"<footer>{escape(report.machine)} · began {escape(report.began_at)} · {report.seconds:,.0f} s with "
        "set-up. Latency counts from the instant at which a call was due, so the waiting that a stalled "
        "server causes is in it. Click a name to hide its line.</footer>"
    )


def _tiles(report: LoadReport) -> str:
    figures = report.figures
    server, phones = figures.get("server", {}), figures.get("phones", {})
    wanted: list[tuple[str, float | None, str]] = [
        ("calls a second", _calls_per_s(report), ""),
        ("check-in, 99 %", figures.get("check_in", {}).get("p99_ms"), " ms"),
        ("report, 99 %", figures.get("report", {}).get("p99_ms"), " ms"),
        ("reports in a flush", figures.get("flush", {}).get("mean_reports"), ""),
        ("server CPU a call", server.get("cpu_ms_per_call"), " ms"),
        ("largest memory", server.get("peak_rss_mib"), " MiB"),
        ("event loop late, 99 %", server.get("loop_lag_p99_ms"), " ms"),
        ("recovered after", figures.get("outage", {}).get("recovery_s"), " s"),
        ("calls with errors", _percent(phones.get("error_share")), " %"),
    ]
    tiles = "".join(
        f'<div class="tile"><b>{_number(value)}{unit}</b><span>{name}</span></div>'
        for name, value, unit in wanted
        if value is not None
    )
    return f'<div class="tiles">{tiles}</div>'


def _goals(report: LoadReport) -> str:
    rows = []
    for goal in report.goals:
        met = '<td class="met">met</td>' if goal.is_met else '<td class="missed">missed</td>'
        rows.append(f"<tr><td>{escape(goal.goal)}</td><td>{_number(goal.measured)}</td>{met}</tr>")
    header = "<tr><th>goal; a missed one does not fail the run</th><th>measured</th><th></th></tr>"
    return f'<h2>Goals</h2><div class="card"><table>{header}{"".join(rows)}</table></div>'


def _percentiles(report: LoadReport) -> str:
    """Return the curves: every tenfold to the right leaves a tenth of the calls above."""
    series = []
    for name, colour in _shown(report).items():
        curve = report.calls[name].curve
        count = report.calls[name].count
        series.append(
            Series(
                name,
                colour,
                [min(count, 1.0 / (1.0 - at)) if at < 1.0 else float(count) for at, _ in curve],
                [latency_ms for _, latency_ms in curve],
            )
        )
    decades = max(2, math.ceil(math.log10(max((max(one.x) for one in series), default=100.0))))
    ticks = [(1.0, "0 %"), (2.0, "50 %"), (10.0, "90 %"), (100.0, "99 %")]
    ticks += [(10.0**n, f"99.{'9' * (n - 2)} %") for n in range(3, decades + 1)]
    x = Axis("share of calls at or below", 1.0, 10.0**decades, is_log=True, ticks=tuple(ticks))
    chart = Chart("Latency from the due instant", x, y_axis("ms", series, is_log=True), series, height=300)
    return chart.to_svg()


def _timelines(report: LoadReport) -> Iterable[Chart]:
    lines = [(colour, name, report.timelines[name]) for name, colour in _shown(report).items()]
    rates = [
        Series(name, colour, line.at_s, line.ended_per_s)
        for colour, name, line in lines
        if not name.startswith(VISIT)
    ]
    medians = [Series(name, colour, line.at_s, line.p50_ms) for colour, name, line in lines]
    slow = [Series(name, colour, line.at_s, line.p99_ms) for colour, name, line in lines]
    usage = list(enumerate(report.servers))

    def over_servers(column: str, label: str, first_colour: int = 0) -> list[Series]:
        return [
            Series(
                label if len(usage) == 1 else f"{label}, server {number + 1}",
                (first_colour + number) % _COLOURS,
                *_with_gaps([(sample.at_s, getattr(sample, column)) for sample in samples]),
            )
            for number, samples in usage
        ]

    ends = [at for _, _, line in lines for at in line.at_s[-1:]]
    ends += [samples[-1].at_s for samples in report.servers if samples]
    end_s = max([report.duration_s, *ends])
    x = Axis("seconds since the start", 0.0, end_s)
    marks = [(mark.at_s, mark.text) for mark in report.marks]
    for title, series, label, is_log, at_least in (
        ("Calls ended a second", rates, "calls/s", False, 0.0),
        ("Median latency", medians, "ms", True, 0.0),
        ("99 % of latency", slow, "ms", True, 0.0),
        ("Server CPU", over_servers("cpu_ratio", "CPU"), "cores", False, 1.0),
        ("Event loop lag", over_servers("loop_lag_ms", "mean lag", 1), "ms", False, 1.0),
        ("Memory", over_servers("rss_mib", "RSS", 3), "MiB", False, 0.0),
        (
            "Open files and tasks of the event loop",
            over_servers("open_files", "files") + over_servers("tasks", "tasks", 1 + len(usage)),
            "number",
            False,
            10.0,
        ),
    ):
        if any(value is not None for one in series for value in one.y):
            vertical = y_axis(label, series, is_log=is_log, at_least=at_least)
            yield Chart(title, x, vertical, series, marks, is_timeline=True)


def _with_gaps(
    samples: list[tuple[float, float | None]],
) -> tuple[list[float], list[float | None]]:
    """Return instants and values, with a gap where there are no samples: the server was away."""
    at_s: list[float] = []
    values: list[float | None] = []
    for instant, value in samples:
        if at_s and instant - at_s[-1] > _AWAY_S:
            at_s.append((at_s[-1] + instant) / 2)
            values.append(None)
        at_s.append(instant)
        values.append(value)
    return at_s, values


def _shown(report: LoadReport) -> dict[str, int]:
    """Return the calls that charts show, and their colours: the honest phones' most frequent ones first."""
    calls = report.calls
    names = sorted(calls, key=lambda name: (name.endswith(BAD_PHONE), -calls[name].count))
    return {name: number for number, name in enumerate(names[:_COLOURS])}


def _call_table(report: LoadReport) -> str:
    header = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in ("call", *_COLUMNS, "outcomes"))
    rows = []
    for name, call in sorted(report.calls.items(), key=lambda item: -item[1].count):
        cells = "".join(f"<td>{_number(getattr(call, column))}</td>" for column in _COLUMNS)
        outcomes = ", ".join(f"{outcome} {count:,}" for outcome, count in call.outcomes.items())
        rows.append(f'<tr><td>{escape(name)}</td>{cells}<td class="text">{escape(outcomes)}</td></tr>')
    return f'<div class="card"><table><tr>{header}</tr>{"".join(rows)}</table></div>'


def _counts(report: LoadReport) -> str:
    flushes = {
        ("more" if bound is None else f"up to {bound:g}"): count for bound, count in report.flushes if count
    }
    lists = (
        ("Check-ins by answer", report.check_ins),
        ("Visits by ending", report.endings),
        ("Flushes by number of reports", flushes),
        ("Errors by call and cause", report.errors),
    )
    cards = "".join(_bars(title, counts) for title, counts in lists if counts)
    return f'<h2>What happened</h2><div class="two">{cards}</div>'


def _bars(title: str, counts: Mapping[str, int]) -> str:
    largest = max(counts.values())
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{count:,}</td>"
        f'<td class="bar"><i style="width:{100 * count / max(1, largest):.1f}%"></i></td></tr>'
        for name, count in counts.items()
        if count
    )
    return f'<div class="card"><h2>{title}</h2><table>{rows}</table></div>'


def _ceilings(report: LoadReport) -> str:
    if not report.ceilings:
        return ""
    rows = "".join(
        f"<tr><td>{escape(ceiling.name)}</td><td>{_number(ceiling.per_s)}</td>"
        f"<td>{_number(ceiling.reached_per_s)}</td><td>{_number(ceiling.reached_ratio)}</td></tr>"
        for ceiling in report.ceilings
    )
    header = "<tr><th>this machine alone</th><th>a second</th><th>reached</th><th>share</th></tr>"
    return f'<h2>Ceilings, measured in this run</h2><div class="card"><table>{header}{rows}</table></div>'


def _figure_table(report: LoadReport) -> str:
    rows = "".join(
        f"<tr><td>{escape(row)}</td><td class='text'>{_pairs(columns)}</td></tr>"
        for row, columns in report.figures.items()
        if row not in report.calls
    )
    books = report.correctness
    counted = {
        "acknowledged": books.reports_acked,
        "in the rounds' sums": books.reports_counted,
        "lost": books.reports_lost,
        "unknown": books.reports_unknown,
        "acknowledged twice": books.reports_acked_twice,
        "without an answer": books.reports_unsettled,
        "of forgotten devices": books.reports_forgotten,
    }
    rows += f"<tr><td>books of reports</td><td class='text'>{_pairs(counted)}</td></tr>"
    return f'<div class="card"><table>{rows}</table></div>'


def _pairs(columns: Mapping[str, float]) -> str:
    return " · ".join(
        f"{escape(name.replace('_', ' '))} <b>{_number(value)}</b>" for name, value in columns.items()
    )


def _calls_per_s(report: LoadReport) -> float:
    calls = sum(call.count for name, call in report.calls.items() if not name.startswith(VISIT))
    return calls / report.duration_s


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _number(value: float | None) -> str:
    """Return a number as people read it: whole where it is large, three digits where it is small."""
    if value is None:
        return "not measured"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
