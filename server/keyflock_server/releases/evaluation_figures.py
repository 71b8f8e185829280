"""What a closed ``evaluate`` round says: sums for whoever decides, and figures for people to read."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_models.evaluation.paired_scores import mean_figures, sums_by_metric
from keyflock_server.releases.paired_sums import MetricSums, PairedSums, paired_difference
from keyflock_server.releases.student_t import MIN_DEGREES, student_t_quantile

#: Two-sided confidence of the intervals that operators see.
CONFIDENCE: Final = 0.95


def paired_sums(total: NDArray[np.float32], phones: int, metrics: Sequence[str]) -> PairedSums:
    """Return a round's sums.

    Args:
        total: The sum of its phones' paired scores. Shape (size of ``paired_layout``,).
        phones: Number of phones.
        metrics: What they measured.
    """
    sums = {metric: MetricSums(**found) for metric, found in sums_by_metric(total, metrics).items()}
    return PairedSums(users=phones, metrics=sums)


def evaluation_figures(total: NDArray[np.float32], sums: PairedSums) -> dict[str, float]:
    """Return a round's figures: means over its phones, differences, and their intervals.

    Edge cases:
        fewer phones than an interval needs -> no interval
    """
    users = sums.users
    figures = {"phones": float(users)} | mean_figures(total / np.float32(users))
    for metric, found in sums.metrics.items():
        figures[f"{metric}.candidate"] = found.candidate / users
        figures[f"{metric}.baseline"] = found.baseline / users
        difference = paired_difference(sums, metric)
        if difference is None:
            continue
        figures[f"{metric}.difference"] = difference.mean
        if users > MIN_DEGREES:
            quantile = student_t_quantile(0.5 + CONFIDENCE / 2.0, users - 1)
            reach = quantile * difference.deviation / math.sqrt(users)
            figures[f"{metric}.low"] = difference.mean - reach
            figures[f"{metric}.high"] = difference.mean + reach
    return figures
