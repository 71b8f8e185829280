"""All single figures of a run by row and column, from the phones' side and from the servers'."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_load_tests.latency_histogram import LatencyHistogram
from keyflock_load_tests.measurement import Measurements
from keyflock_load_tests.observation import ServerUsage, ServerWatch
from keyflock_load_tests.result import CallFigures

#: A trend is fitted to the means of so many equal parts of the run's second half: neighbouring samples of a
#: memory are too alike to be counted as so many observations.
_TREND_PARTS: Final = 10
_MIN_TREND_S: Final = 120.0
_S_PER_H: Final = 3_600.0
_REQUESTS: Final = "keyflock_request_duration_seconds_count|call="
_FLUSH: Final = "keyflock_flush_reports"
_FLUSH_DURATION: Final = "keyflock_flush_duration_seconds"
_LAG: Final = "keyflock_event_loop_lag_seconds"

Growth = Mapping[str, float]


def call_rows(calls: Mapping[str, CallFigures]) -> dict[str, dict[str, float]]:
    """Return a row for each kind of call."""
    columns = ("count", "per_s", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms")
    return {
        call: {column: float(getattr(found, column)) for column in columns} for call, found in calls.items()
    }


def phone_rows(measurements: Measurements) -> dict[str, dict[str, float]]:
    """Return the rows of the phones and of the generator of visits."""
    rows = {
        "phones": {
            "arrivals": float(len(measurements.lateness_s)),
            "calls": float(len(measurements.samples) + measurements.stream_calls),
            "error_share": measurements.error_share(),
            "errors": float(sum(measurements.errors().values())),
            "shed": float(measurements.shed),
        }
    }
    if measurements.lateness_s:
        late = LatencyHistogram.of(measurements.lateness_s)
        rows["generator"] = {
            "lateness_p99_ms": late.quantile_ms(0.99),
            "lateness_max_ms": late.quantile_ms(1.0),
        }
    return rows


def server_rows(watches: Sequence[ServerWatch]) -> dict[str, dict[str, float]]:
    """Return the rows of the servers: all of them together, the largest where a sum says nothing."""
    rows: dict[str, dict[str, float]] = {}
    growth: dict[str, float] = {}
    for watch in watches:
        for key, value in watch.growth.items():
            growth[key] = growth.get(key, 0.0) + value
    usage = [watch.usage for watch in watches if watch.usage]
    if usage:
        ratios = [sample.cpu_ratio for samples in usage for sample in samples]
        cpu_s = sum(watch.cpu_s for watch in watches)
        answered = sum(value for key, value in growth.items() if key.startswith(_REQUESTS))
        rows["server"] = {
            "peak_rss_mib": max(watch.peak_rss_mib for watch in watches),
            "last_rss_mib": max(samples[-1].rss_mib for samples in usage),
            "mean_cpu_ratio": float(np.mean(ratios)),
            "peak_cpu_ratio": max(ratios),
            "cpu_s": cpu_s,
            **({"cpu_ms_per_call": 1e3 * cpu_s / answered} if answered else {}),
            **_trend_columns(usage),
        }
        lag = histogram_quantile(growth, _LAG, 0.99)
        if lag is not None:
            rows["server"]["loop_lag_p99_ms"] = 1e3 * lag
    flushes = growth.get(f"{_FLUSH}_count", 0.0)
    if flushes:
        rows["flush"] = {
            "count": flushes,
            "mean_reports": growth.get(f"{_FLUSH}_sum", 0.0) / flushes,
            "mean_ms": 1e3 * growth.get(f"{_FLUSH_DURATION}_sum", 0.0) / flushes,
        }
    return rows


def flush_sizes(watches: Sequence[ServerWatch]) -> list[tuple[float | None, int]]:
    """Return the number of flushes by the upper end of their size's bucket; the last has none."""
    cumulative = sorted(
        (bound, sum(watch.growth.get(key, 0.0) for watch in watches))
        for bound, key in _buckets(watches[0].growth, _FLUSH)
    )
    counts = np.diff([0.0, *(count for _, count in cumulative)])
    bounds = [bound if np.isfinite(bound) else None for bound, _ in cumulative]
    return [(bound, int(count)) for bound, count in zip(bounds, counts, strict=True)]


def histogram_quantile(growth: Growth, name: str, quantile: float) -> float | None:
    """Return the upper end of the bucket in which a quantile lies; None if nothing was observed.

    Edge cases:
        it lies in the last bucket, which has no end -> the end of the one before
    """
    cumulative = sorted((bound, growth[key]) for bound, key in _buckets(growth, name))
    if not cumulative or not cumulative[-1][1]:
        return None
    rank = quantile * cumulative[-1][1]
    finite = [bound for bound, _ in cumulative if np.isfinite(bound)]
    return next((min(bound, finite[-1]) for bound, count in cumulative if count >= rank), finite[-1])


def trend_per_h(at_s: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the slope of the second half of a series, an hour, and twice its standard error.

    None where the second half is too short to say.
    """
    second = at_s >= (at_s[0] + at_s[-1]) / 2
    if (at_s[-1] - at_s[0]) / 2 < _MIN_TREND_S or np.count_nonzero(second) < _TREND_PARTS:
        return None
    hours = np.array([part.mean() for part in np.array_split(at_s[second], _TREND_PARTS)]) / _S_PER_H
    means = np.array([part.mean() for part in np.array_split(values[second], _TREND_PARTS)])
    centred = hours - hours.mean()
    slope = float(centred @ means / (centred @ centred))
    rest = means - means.mean() - slope * centred
    error = float(np.sqrt(rest @ rest / (_TREND_PARTS - 2) / (centred @ centred)))
    return slope, 2.0 * error


def _trend_columns(usage: Sequence[Sequence[ServerUsage]]) -> dict[str, float]:
    """Return the steepest trends of the servers: what memory, files and tasks do beyond noise is a leak."""
    columns: dict[str, float] = {}
    for name, unit in (("rss_mib", "rss_mib_per_h"), ("open_files", "files_per_h"), ("tasks", "tasks_per_h")):
        for samples in usage:
            known = [(one.at_s, getattr(one, name)) for one in samples if getattr(one, name) is not None]
            found = None
            if len(known) > 1:
                found = trend_per_h(*np.array(known, np.float64).T)
            if found is not None and found[0] >= columns.get(unit, -np.inf):
                slope, noise = found
                columns[unit] = slope
                columns[f"{unit}_noise"] = noise
                columns[f"{unit}_beyond_noise"] = max(0.0, slope - noise)
    return columns


def _buckets(growth: Growth, name: str) -> list[tuple[float, str]]:
    prefix = f"{name}_bucket|le="
    return [(float(key.removeprefix(prefix)), key) for key in growth if key.startswith(prefix)]
