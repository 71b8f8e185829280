"""Counts and levels in plain numbers, turned into metrics when Prometheus asks.

The library's own counters take a lock and several calls for each increment. These belong to the event loop's
thread, which alone changes them and answers scrapes. Labels are looked up in a mapping, and their values are
bounded by the series' declaration: what is beyond is counted under ``other``.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate, product
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from keyflock_server.telemetry.series.declaration import OTHER, DeclaredSeries, IdKind, Label

#: Returns the values of a gauge now, by the values of its labels.
ReadValues = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Count:
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add to the number."""
        self.value += amount


class Level:
    """A number that goes up and down, or is asked for when it is shown."""

    __slots__ = ("_read", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._read: Callable[[], float] | None = None

    @property
    def value(self) -> float:
        """Return the number."""
        return self._value if self._read is None else self._read()

    def set(self, value: float) -> None:
        """Set the number."""
        self._value = value

    def set_function(self, read: Callable[[], float]) -> None:
        """Have the number asked for when it is shown."""
        self._read = read


class Distribution:
    """Observations counted by size."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.total += value
        self.counts[bisect_left(self._bounds, value)] += 1


V = TypeVar("V")


class Family(Collector, ABC, Generic[V]):
    """All series of one declaration, by the values of their labels.

    Args:
        series: The declaration.
    """

    def __init__(self, series: DeclaredSeries) -> None:
        self.series = series
        self._children: dict[tuple[str, ...], V] = {}
        if series.starts_at_zero:
            for values in product(*(label.values for label in series.labels)):
                self._children[values] = self._new()

    def labels(self, *values: str) -> V:
        """Return what is counted under these values, or under ``other`` where one is unknown."""
        child = self._children.get(values)
        if child is None:
            child = self._children.setdefault(self._shown(values, self._children), self._new())
        return child

    def keep_only(self, id_kind: IdKind, living: Collection[str]) -> None:
        """Remove the series of tasks or populations that are gone."""
        for index, label in enumerate(self.series.labels):
            if label.ids_of is id_kind:
                known = {key[index] for key in self._children} - {OTHER}
                gone = known.difference(living)
                self._children = {key: one for key, one in self._children.items() if key[index] not in gone}

    @abstractmethod
    def _new(self) -> V:
        """Return a number for new values of the labels."""

    def _shown(self, values: tuple[str, ...], known: Collection[tuple[str, ...]]) -> tuple[str, ...]:
        """Return the values as the labels show them, where those of ``known`` have series already."""
        labels = enumerate(zip(self.series.labels, values, strict=True))
        return tuple(_bounded(label, value, {key[i] for key in known}) for i, (label, value) in labels)


def _bounded(label: Label, value: str, known: set[str]) -> str:
    if label.ids_of is None:
        return value if value in label.values else OTHER
    return value if value in known or len(known - {OTHER}) < label.max_ids else OTHER


class Counter(Family[Count]):
    """A declared counter."""

    def inc(self, amount: float = 1) -> None:
        """Add to a counter without labels."""
        self._children[()].value += amount

    def collect(self) -> Iterator[Metric]:
        """Yield the counter as it is now."""
        shown = CounterMetricFamily(self.series.name, self.series.doc, labels=self.series.label_names)
        for values, child in self._children.items():
            shown.add_metric(values, child.value)
        yield shown

    def _new(self) -> Count:
        return Count()


class Gauge(Family[Level]):
    """A declared gauge."""

    def __init__(self, series: DeclaredSeries) -> None:
        super().__init__(series)
        self._read: ReadValues | None = None

    def set(self, value: float) -> None:
        """Set a gauge without labels."""
        self._children[()].set(value)

    def read_from(self, read: ReadValues) -> None:
        """Have all values asked for when they are shown; what is not returned is not shown.

        Beyond a label's bound the largest value is shown under ``other``.
        """
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge as it is now."""
        shown = GaugeMetricFamily(self.series.name, self.series.doc, labels=self.series.label_names)
        for values, value in self._values():
            shown.add_metric(values, value)
        yield shown

    def _new(self) -> Level:
        return Level()

    def _values(self) -> Iterable[tuple[tuple[str, ...], float]]:
        if self._read is None:
            return [(values, child.value) for values, child in self._children.items()]
        read: dict[tuple[str, ...], float] = {}
        for values, value in self._read():
            key = self._shown(values, read)
            read[key] = max(value, read.get(key, value))
        return read.items()


class Histogram(Family[Distribution]):
    """A declared histogram."""

    def observe(self, value: float) -> None:
        """Count one observation in a histogram without labels."""
        self._children[()].observe(value)

    def collect(self) -> Iterator[Metric]:
        """Yield the histogram as it is now."""
        series = self.series
        shown = HistogramMetricFamily(series.name, series.doc, labels=series.label_names)
        bounds = [*map(_bound_text, series.buckets), "+Inf"]
        for values, child in self._children.items():
            buckets = list(zip(bounds, accumulate(child.counts), strict=True))
            shown.add_metric(values, buckets, child.total)
        yield shown

    def _new(self) -> Distribution:
        return Distribution(self.series.buckets)


def _bound_text(bound: float) -> str:
    return str(float(bound))
