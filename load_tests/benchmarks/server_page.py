"""The section of BENCHMARKS.md about one server core, and the line that ends the benchmark."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.page import table
from benchmarks.server_close import CloseFigures
from benchmarks.server_measurements import OpenLoopFigures, OverloadFigures, Peak
from keyflock_load_tests.cores import Cores
from keyflock_load_tests.correctness import Correctness

#: CPU seconds of a server for one update of the same model, without compression; both measured on this kind
#: of machine: Flower 1.41's deployment engine, and NVFlare 2.9's simulator with its clients.
FLOWER_CPU_MS: Final = 440.0
NVFLARE_CPU_MS: Final = (120.0, 140.0)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the machine gives at most."""

    #: Reports that a bare handler reads and drops.
    dropped: Peak
    dense_add_ms: float
    syncs_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """All figures of one server core."""

    refused: Peak
    refused_open: OpenLoopFigures
    #: Check-ins of `refused` by answer.
    kinds: Mapping[str, int]
    assigned: Peak
    reports: Peak
    reports_open: OpenLoopFigures
    downloads: Peak
    closing: CloseFigures
    overload: Mapping[str, OverloadFigures]
    ceilings: Ceilings
    delta_bytes: float
    correctness: Correctness
    #: Reports that were refused for good, by status.
    reports_refused: Mapping[int, int]
    cores: Cores
    #: Number of phones whose check-ins are refused, and of those that get work.
    sizes: tuple[int, int]
    runs: int

    @property
    def rss_mb(self) -> float:
        """The largest memory of the server."""
        return self.correctness.peak_rss_mib * 1.048576

    @property
    def download_over_bare(self) -> float:
        """Downloads against the bare handler's: by rate or by CPU time, whichever is worse.

        Where the generator is the limit, the rates are equal, and only the CPU time tells.
        """
        return min(self.downloads.rate_over_bare, 1.0 / self.downloads.cpu_over_bare)

    def line(self) -> dict[str, float]:
        """Return the line that ends the benchmark."""
        values = {
            "reports_per_s": self.reports.per_s,
            "report_over_ceiling": self.reports.rate_over_bare,
            "delta_bytes": self.delta_bytes,
            "checkins_per_s": self.refused.per_s,
            "checkin_cpu_over_bare": self.refused.cpu_over_bare,
            "checkin_p99_ms_at_70": self.refused_open.p99_ms,
            "assigned_per_s": self.assigned.per_s,
            "report_p99_ms_at_70": self.reports_open.p99_ms,
            "download_over_bare": self.download_over_bare,
            "close_stall_ms": self.closing.stall_ms,
            "rss_mb": self.rss_mb,
        }
        return {name: round(value, 3) for name, value in values.items()} | {
            "lost": self.correctness.lost,
            "double": self.correctness.double,
        }


def section(figures: ServerFigures) -> str:
    """Return the section."""
    peaks = table(
        ("call", "calls/s", "CPU ms", "p99 ms", "bare handler, calls/s", "CPU ms", "CPU over bare"),
        _peaks(figures),
    )
    below = table(
        (
            *("at 70 % of the peak, open loop", "offered/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms"),
            *("late, ms", "failed, %"),
        ),
        _open(figures),
    )
    beyond = table(
        ("twice the peak offered", "goodput, % of peak", "refused", "no answer", "CPU ms", "recovers in"),
        _overload(figures),
    )
    return f"""{peaks}

{_conditions(figures)}

{below}

Medians of {figures.runs} open loops. Latency is from the instant at which a call was due; a report's
contains its wait for the flush. Late: the p99 of how much later than due the generator sent. Failed: the
calls without a good answer.

{beyond}

Goodput: good answers a second, until the last call that was due in the overload has its answer. Refused:
answered with 503 or `overloaded`. No answer: no connection within two seconds, or none in time. The CPU time
is for each answer.

{_closing(figures)}

{_books(figures)}

{_peers(figures)}
"""


def _conditions(figures: ServerFigures) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(figures.kinds.items()))
    ceilings = figures.ceilings
    return f"""{figures.cores.describe()} Medians of {figures.runs} closed loops, in turn with the bare
handler: the same aiohttp and uvloop, on the same core, equal bytes. For a report
({figures.delta_bytes / 1e3:.0f} KB) that handler decodes with the same codec, judges and adds, and nothing
else; one that only reads and drops it does {ceilings.dropped.bare_per_s:,.0f}/s. The CPU time is that of the
whole server process, all threads. Check-ins that are refused are of {figures.sizes[0]:,} phones in turn
({kinds}); those that get work, of {figures.sizes[1]:,}, each once. The generator's own limit, by its CPU time
a call: {_generator(figures)}. A dense add takes {ceilings.dense_add_ms:.2f} ms, and the disk takes
{ceilings.syncs_per_s:,.0f} syncs/s."""


def _closing(figures: ServerFigures) -> str:
    closing = figures.closing
    return f"""While a round of this model closed, the slowest report of another task took
**{closing.stall_ms:.0f} ms longer** than the slowest in as long a time without a closing
({closing.usual_ms:.0f} ms): median of {len(closing.stalls_ms)}, at worst {max(closing.stalls_ms):.0f} ms;
{closing.per_s:.0f} reports/s, {closing.closed} rounds closed."""


def _books(figures: ServerFigures) -> str:
    correctness = figures.correctness
    return f"""Peak memory {figures.rss_mb:.0f} MB. By the books of both sides
{correctness.reports_acked:,} reports were acknowledged and {correctness.reports_counted:,} counted:
**{correctness.lost} lost, {correctness.double} double**{_refused_reports(figures)}."""


def _peers(figures: ServerFigures) -> str:
    times = FLOWER_CPU_MS / _update_ms(figures)
    low, high = NVFLARE_CPU_MS
    return f"""Measured on the same kind of machine, a server's CPU time for one update of the same model:
Flower 1.41's deployment engine {FLOWER_CPU_MS:.0f} ms, without compression: **{times:,.0f} times** that of a
check-in, a download and a report here ({_update_ms(figures):.2f} ms together). NVFlare 2.9's simulator
{low:.0f} to {high:.0f} ms, its clients included."""


def _peaks(figures: ServerFigures) -> list[tuple[str, ...]]:
    rows = {
        "check-in, refused": figures.refused,
        "check-in that gets work": figures.assigned,
        "report, durable and acknowledged": figures.reports,
        "model download": figures.downloads,
    }
    return [_peak(name, peak) for name, peak in rows.items()]


def _peak(name: str, peak: Peak) -> tuple[str, ...]:
    p99_ms = sorted(one.p99_ms for one in peak.ours)[len(peak.ours) // 2]
    ours = (f"{peak.per_s:,.0f}", f"{peak.cpu_ms:.3f}", f"{p99_ms:.0f}")
    if not peak.bare:
        return (name, *ours, "", "", "")
    return (
        name,
        *ours,
        f"{peak.bare_per_s:,.0f}",
        f"{peak.bare_cpu_ms:.3f}",
        f"{peak.cpu_over_bare:.2f}",
    )


def _open(figures: ServerFigures) -> list[tuple[str, ...]]:
    rows = {"check-in, refused": figures.refused_open, "report": figures.reports_open}
    return [
        (
            name,
            f"{one.offered_per_s:,.0f}",
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.p999_ms:.1f}",
            f"{one.max_ms:.0f}",
            f"{one.lateness_p99_ms:.1f}",
            f"{one.failed_percent:.2f}",
        )
        for name, one in rows.items()
    ]


def _overload(figures: ServerFigures) -> list[tuple[str, ...]]:
    return [
        (
            f"{name}, {one.offered_per_s:,.0f}/s",
            f"{100 * one.goodput_ratio:.0f}",
            f"{100 * one.refused_ratio:.0f} %",
            f"{100 * one.unanswered_ratio:.0f} %",
            f"{one.cpu_ms:.3f}",
            f"{one.recovery_s:.1f} s",
        )
        for name, one in figures.overload.items()
    ]


def _generator(figures: ServerFigures) -> str:
    return (
        f"{figures.refused.generator_per_s:,.0f} check-ins/s, "
        f"{figures.ceilings.dropped.generator_per_s:,.0f} reports/s, "
        f"{figures.downloads.generator_per_s:,.0f} downloads/s"
    )


def _update_ms(figures: ServerFigures) -> float:
    return figures.assigned.cpu_ms + figures.downloads.cpu_ms + figures.reports.cpu_ms


def _refused_reports(figures: ServerFigures) -> str:
    if not figures.reports_refused:
        return ""
    by_status = ", ".join(f"{count:,} with {status}" for status, count in figures.reports_refused.items())
    return f" (refused for good: {by_status})"
