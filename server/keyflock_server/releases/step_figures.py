"""What is measured of a step while its weights are in memory.

The figures are stored with the round, so that every process that looks at it afterwards decides the same.

The loss is the master weights': the download rounds each to one of 255 steps of its row, which moves the
loss on the anchor text by some hundredths of a nat, far below what the checks are for.
"""

import math
from typing import Any, Final, Self

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from keyflock_models.anchor import anchor_loss
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.layout import ParamLayout

#: A larger weight is as good as infinite: float32 does not hold its square.
LARGEST_WEIGHT: Final = 1e18
_ROWS: Final = "embedding"


class StepFigures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step in numbers. A figure that is not there could not be measured, or is not finite."""

    #: Weights of the new version that are infinite, no number, or larger than ``LARGEST_WEIGHT``.
    non_finite_weights: int = 0
    #: L2 norms, in units of the parameters: of new minus old weights, and of its longest word's row.
    step_norm: float | None = None
    step_row_norm: float | None = None
    #: The same of the cohort's mean delta.
    mean_delta_norm: float | None = None
    mean_delta_row_norm: float | None = None
    #: Nats a word on the anchor text: of the new version, the one before, and the one a person last chose.
    anchor_loss: float | None = None
    anchor_loss_before: float | None = None
    anchor_loss_chosen: float | None = None
    #: 1 where there is an anchor text, and the new version's loss on it is not finite.
    non_finite_losses: int = 0

    def to_json(self) -> str:
        """Return the form in which a round keeps it: an object of the numbers that there are."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, stored: str) -> Self:
        """Return what ``to_json`` wrote; nothing measured for what an earlier release left empty."""
        return msgspec.json.decode(stored, type=cls) if stored else cls()


def step_figures(
    before: Checkpoint,
    weights: NDArray[np.float32],
    mean_delta: NDArray[np.float32],
    *,
    loss_before: float | None,
    loss_chosen: float | None,
) -> StepFigures:
    """Measure a step.

    Args:
        before: The version that it started from, with the anchor text if there is one.
        weights: What it made, shape (P,), float32; may be anything at all.
        mean_delta: The cohort's, shape (P,), float32.
        loss_before: The version before's loss on the anchor text, where it is known.
        loss_chosen: The same of the version that a person last chose.
    """
    layout = ParamLayout.of(before.config)
    with np.errstate(invalid="ignore"):
        non_finite = int(np.count_nonzero(~(np.abs(weights) <= LARGEST_WEIGHT)))
        step = weights.astype(np.float64) - before.weights
    loss = None
    if before.anchor is not None and not non_finite:
        loss = anchor_loss(before.config, before.vocabulary, weights, before.anchor)
    return StepFigures(
        non_finite_weights=non_finite,
        step_norm=_finite(np.linalg.norm(step)),
        step_row_norm=_longest_row(step, layout),
        mean_delta_norm=_finite(np.linalg.norm(mean_delta.astype(np.float64))),
        mean_delta_row_norm=_longest_row(mean_delta.astype(np.float64), layout),
        anchor_loss=_finite(loss),
        anchor_loss_before=loss_before,
        anchor_loss_chosen=loss_chosen,
        non_finite_losses=int(loss is not None and not math.isfinite(loss)),
    )


def _longest_row(vector: NDArray[np.float64], layout: ParamLayout) -> float | None:
    place = layout.names.index(_ROWS)
    begin, shape = layout.offsets[place], layout.shapes[place]
    rows = vector[begin : begin + math.prod(shape)].reshape(shape)
    return _finite(np.linalg.norm(rows, axis=1).max())


def _finite(value: Any) -> float | None:  # noqa: ANN401 - a number of NumPy's or Python's
    return None if value is None or not math.isfinite(value) else float(value)
