"""The paired scores that a phone reports of two versions of the model, measured on the same text.

An `evaluate` round asks phones how good a candidate and a baseline are for their users. Only means and their
spread over users are needed, never one phone's answer. So the answer is a float32 vector of named entries,
which is summed as any report is, and of which only sums of several phones are ever stored. It holds no word.

For each metric a phone reports its user's mean under both versions, both squares and the product: their sums
over users give both means, and the variance of the difference.

Every entry has bounds: a phone clips its values to them, and a vector beyond them, or one that contradicts
itself, is refused. So no phone moves a mean, or the spread around it, further than any other could.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np

from keyflock_models.arrays import F32, F64
from keyflock_models.network.layout import ParamLayout

#: The metrics in their order, and the bounds of a user's mean.
METRICS: Final = MappingProxyType(
    {
        "recall_at_1": (0.0, 1.0),
        "recall_at_3": (0.0, 1.0),
        "mrr_at_10": (0.0, 1.0),
        # Keystroke savings: strokes saved over the strokes of typing everything.
        "ksr": (0.0, 1.0),
        # Nats per word of the vocabulary; guessing among ten thousand words costs 9.2.
        "nll": (0.0, 20.0),
    }
)
#: Metrics of which less is better.
FALLING_METRICS: Final = frozenset({"nll"})
#: What a phone reports beside the metrics.
FIGURES: Final = MappingProxyType(
    {
        # It is 1 for one phone, and so for the mean of many.
        "phones": (1.0, 1.0),
        # The number of words that were scored.
        "words": (1.0, 100_000.0),
        # The share of them that the vocabulary does not have.
        "oov_rate": (0.0, 1.0),
    }
)
#: The five entries of a metric, in their order.
ENTRIES: Final = ("candidate", "baseline", "candidate_squared", "baseline_squared", "product")
#: Tolerance of squares and products for float32's rounding, relative to their size.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True)
class PairedScore:
    """One user's mean of one metric under both versions, over the same words."""

    candidate: float
    baseline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedScores:
    """What one phone has measured of two versions."""

    words: int
    oov_rate: float
    #: By metric.
    scores: Mapping[str, PairedScore]


@lru_cache(maxsize=32)
def paired_layout(metrics: tuple[str, ...]) -> ParamLayout:
    """Return the layout of the vector for these metrics, in the order of `METRICS`.

    Raises:
        ValueError: a metric is unknown, is there twice, or is out of order; or there is none.
    """
    if not metrics or metrics != tuple(name for name in METRICS if name in metrics):
        msg = f"metrics are some of {', '.join(METRICS)}, in this order"
        raise ValueError(msg)
    entries = tuple(f"{metric}.{entry}" for metric in metrics for entry in ENTRIES)
    names = (*FIGURES, *entries)
    return ParamLayout(names=names, shapes=tuple((1,) for _ in names))


def encode_scores(measured: PairedScores, metrics: tuple[str, ...]) -> F32:
    """Encode one phone's measurements as a vector, laid out as `paired_layout` says.

    Guarantees:
        `scores_problem` accepts it, whatever was measured, if that is finite and there was a word.
    """
    vector = np.array([1.0, measured.words, measured.oov_rate, *np.zeros(len(ENTRIES) * len(metrics))])
    for at, (low, high) in enumerate(FIGURES.values()):
        vector[at] = min(max(vector[at], low), high)
    for row, metric in zip(_rows(vector), metrics, strict=True):
        low, high = METRICS[metric]
        score = measured.scores[metric]
        # Squares are of the numbers that are sent.
        both = np.clip(np.array([score.candidate, score.baseline], np.float32), low, high).astype(np.float64)
        row[:] = [*both, *both**2, both[0] * both[1]]
    return vector.astype(np.float32)


def scores_problem(vector: F32, metrics: tuple[str, ...]) -> str:
    """Return why this vector cannot come from an honest phone; empty if it can.

    Args:
        vector: The vector, finite. Shape (size of `paired_layout`,).
        metrics: What the phone was asked for.
    """
    values = vector.astype(np.float64)
    for value, (name, (low, high)) in zip(values, FIGURES.items(), strict=False):
        if not low <= value <= high:
            return f"the evaluation's {name} is not between {low:g} and {high:g}"
    for (candidate, baseline, *others), metric in zip(_rows(values), metrics, strict=True):
        low, high = METRICS[metric]
        if not (low <= candidate <= high and low <= baseline <= high):
            return f"the evaluation's {metric} is not between {low:g} and {high:g}"
        expected = np.array([candidate**2, baseline**2, candidate * baseline])
        if not np.allclose(others, expected, rtol=_ROUNDING, atol=_ROUNDING * 1e-6):
            return f"the evaluation's squares of {metric} are not those of its means"
    return ""


def sums_by_metric(total: F32 | F64, metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return a sum of vectors as numbers by metric and entry, `ENTRIES` naming the entries."""
    return {
        metric: dict(zip(ENTRIES, map(float, row), strict=True))
        for metric, row in zip(metrics, _rows(total.astype(np.float64)), strict=True)
    }


def mean_figures(mean: F32 | F64) -> dict[str, float]:
    """Return what phones report beside the metrics, as a mean over phones; without their number."""
    means = dict(zip(FIGURES, map(float, mean), strict=False))
    del means["phones"]
    return means


def _rows(vector: F64) -> F64:
    return vector[len(FIGURES) :].reshape(-1, len(ENTRIES))
