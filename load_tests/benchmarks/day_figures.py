"""The figures of a day: what calls cost, how memory grows, and what is stored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Final

import numpy as np

from benchmarks.day_fleet import ASSIGNED, HOUR_S, TICK, TURNED_AWAY, DayRecord
from benchmarks.trend import Slope, slope

MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class CallCost:
    """CPU time of one kind of call."""

    calls: int
    median_s: float
    mean_s: float
    p95_s: float
    #: Median in the last quarter of the day over the median in the second; above 1, the cost grows.
    later_ratio: float


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """Sizes on the disk at the end."""

    #: Bytes of the database for each row of a table, its indexes included.
    row_bytes: Mapping[str, float]
    rows: Mapping[str, int]
    blob_bytes: int


@dataclass(frozen=True, slots=True)
class DayFigures:
    """The figures of one day."""

    phones: int
    hours: float
    delta_bytes: float
    check_ins: int
    reports: int
    rounds: int
    costs: Mapping[str, CallCost]
    #: CPU seconds of all uploads, for one acknowledged report.
    report_s: float
    #: CPU seconds of closing a round and opening the next, beyond an idle tick.
    round_s: float
    #: CPU seconds of the whole day.
    all_s: float
    #: Growth of memory in MB an hour, over the second half.
    growth: Slope
    #: Pairs of an hour and the memory in MB.
    memory: tuple[tuple[float, float], ...]
    #: Number of check-ins in each hour.
    check_ins_by_hour: tuple[int, ...]
    reports_by_hour: tuple[int, ...]
    disk_usage: DiskUsage

    @property
    def memory_mb(self) -> float:
        """The median memory over the second half."""
        return median(size for hour, size in self.memory if hour >= self.hours / 2)


def figures(
    day: DayRecord, disk_usage: DiskUsage, *, phones: int, hours: float, delta_bytes: float
) -> DayFigures:
    """Return the figures of a day."""
    costs = {name: _call_cost(samples, hours) for name, samples in day.costs.items()}
    closed = sum(view.result_version is not None for view in day.rounds)
    ticks = [cpu_s for _, cpu_s in day.costs[TICK]]
    memory = tuple((at_s / HOUR_S, size / MB) for at_s, size in day.memory)
    second_half = [(at_h, size) for at_h, size in memory if at_h >= hours / 2]
    check_ins = [at_s for name in (ASSIGNED, TURNED_AWAY) for at_s, _ in day.costs.get(name, [])]
    return DayFigures(
        phones=phones,
        hours=hours,
        delta_bytes=delta_bytes,
        check_ins=len(check_ins),
        reports=len(day.acked_at),
        rounds=closed,
        costs=costs,
        report_s=sum(cpu_s for _, cpu_s in day.costs["report"]) / len(day.acked_at),
        round_s=(sum(ticks) - len(ticks) * median(ticks)) / max(1, closed),
        all_s=sum(cpu_s for samples in day.costs.values() for _, cpu_s in samples),
        growth=slope(*zip(*second_half, strict=True)),
        memory=memory,
        check_ins_by_hour=_by_hour(check_ins, hours),
        reports_by_hour=_by_hour(day.acked_at, hours),
        disk_usage=disk_usage,
    )


def mean_of(costs: Mapping[str, CallCost], names: Sequence[str]) -> float:
    """Return the mean CPU seconds of a call, over several kinds."""
    found = [costs[name] for name in names if name in costs]
    return sum(cost.calls * cost.mean_s for cost in found) / sum(cost.calls for cost in found)


def _call_cost(samples: Sequence[tuple[float, float]], hours: float) -> CallCost:
    times = [cpu_s for _, cpu_s in samples]
    quarter_s = hours / 4 * HOUR_S
    second = [cpu_s for at_s, cpu_s in samples if quarter_s <= at_s < 2 * quarter_s]
    last = [cpu_s for at_s, cpu_s in samples if at_s >= 3 * quarter_s]
    ratio = median(last) / median(second) if second and last else float("nan")
    return CallCost(len(times), median(times), mean(times), float(np.percentile(times, 95)), ratio)


def _by_hour(instants_s: Sequence[float], hours: float) -> tuple[int, ...]:
    edges = np.arange(int(np.ceil(hours)) + 1) * HOUR_S
    return tuple(int(count) for count in np.histogram(instants_s, edges)[0])
