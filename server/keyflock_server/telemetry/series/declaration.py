"""How a series is declared: its name, kind and labels, what it says, and how many of it there can be."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Final

#: The value under which everything is counted that is not in a label's closed set, or beyond its bound.
OTHER: Final = "other"
#: Series with at most this many combinations of labels start at zero, so that a first event is a rise.
_MAX_PREPARED: Final = 100


class SeriesKind(StrEnum):
    """What Prometheus may do with a series."""

    #: It only grows, except when the process starts anew: take its ``rate`` or ``increase``.
    COUNTER = "counter"
    #: It is a state, which goes up and down.
    GAUGE = "gauge"
    #: It counts observations by their size: take quantiles of the rates of its buckets.
    HISTOGRAM = "histogram"


class IdKind(StrEnum):
    """What the ids of a label are of; a series goes away with what it is about."""

    TASK = "task"
    POPULATION = "population"


@dataclass(frozen=True, slots=True)
class Label:
    """A label and the values that it can have; any other value is shown as ``other``."""

    name: str
    #: The closed set of its values; empty for ids.
    values: tuple[str, ...] = ()
    #: What the ids are of; None for a closed set.
    ids_of: IdKind | None = None
    #: Maximum number of different ids at a time.
    max_ids: int = 0

    @property
    def max_values(self) -> int:
        """Return the maximum number of values, ``other`` included."""
        return (self.max_ids or len(self.values)) + 1


def closed(name: str, values: Iterable[str]) -> Label:
    """Return a label whose values are a closed set."""
    return Label(name, tuple(str(value) for value in values))


#: Maximum number of tasks, or of populations, that have series of their own.
MAX_IDS: Final = 256
TASK: Final = Label("task", ids_of=IdKind.TASK, max_ids=MAX_IDS)
POPULATION: Final = Label("population", ids_of=IdKind.POPULATION, max_ids=MAX_IDS)


@dataclass(frozen=True, slots=True)
class DeclaredSeries:
    """One declared series.

    Attributes:
        name: Its full name, with its unit: ``_seconds``, ``_bytes``, ``_ratio``, or what is counted.
        kind: Its kind.
        doc: One sentence that says what it is.
        labels: Its labels.
        buckets: The upper bounds of a histogram's buckets, without infinity.
    """

    name: str
    kind: SeriesKind
    doc: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the names of its labels."""
        return tuple(label.name for label in self.labels)

    @property
    def max_series(self) -> int:
        """Return how many series one process shows of it at most; a histogram's buckets count as one."""
        return prod(label.max_values for label in self.labels)

    @property
    def starts_at_zero(self) -> bool:
        """Return whether all combinations of its labels are shown from the start."""
        if self.labels and self.kind is not SeriesKind.COUNTER:
            return False  # a state that nobody has set is no zero, and a histogram is many lines
        return all(label.values for label in self.labels) and self.max_series <= _MAX_PREPARED


def counter(name: str, doc: str, *labels: Label) -> DeclaredSeries:
    """Declare a counter."""
    return DeclaredSeries(name, SeriesKind.COUNTER, doc, labels)


def gauge(name: str, doc: str, *labels: Label) -> DeclaredSeries:
    """Declare a gauge."""
    return DeclaredSeries(name, SeriesKind.GAUGE, doc, labels)


def histogram(name: str, doc: str, buckets: Iterable[float], *labels: Label) -> DeclaredSeries:
    """Declare a histogram."""
    return DeclaredSeries(name, SeriesKind.HISTOGRAM, doc, labels, tuple(buckets))
