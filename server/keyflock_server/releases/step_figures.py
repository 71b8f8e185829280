"""The figures of a step, measured while its weights are in memory.

They are stored with the round, so that every process that checks them afterwards decides the same.

The loss is that of the master weights: the download rounds each to one of 255 steps of its row, which moves
the loss on the anchor text by some hundredths of a nat, far below what the checks are for.
"""

import math
from typing import Any, Final, Self

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.layout import ParamLayout

#: A larger weight counts as infinite: float32 does not hold its square.
LARGEST_WEIGHT: Final = 1e18
_ROWS: Final = "embedding"


class StepFigures(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The figures of one step. A missing figure could not be measured, or is not finite."""

    #: Number of weights of the new version that are infinite, NaN, or larger than ``LARGEST_WEIGHT``.
    non_finite_weights: int = 0
    #: L2 norms of new minus old weights, and of its longest word's row, in units of the parameters.
    step_norm: float | None = None
    step_row_norm: float | None = None
    #: The same norms of the cohort's mean delta.
    mean_delta_norm: float | None = None
    mean_delta_row_norm: float | None = None
    #: Losses on the anchor text, nats a word: of the new version, the one before, and the last chosen one.
    anchor_loss: float | None = None
    anchor_loss_before: float | None = None
    anchor_loss_chosen: float | None = None
    #: 1 where there is an anchor text, and the new version's loss on it is not finite.
    non_finite_losses: int = 0

    def to_json(self) -> str:
        """Return the JSON object that is stored with the round; missing figures are left out."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, stored: str) -> Self:
        """Return the figures that ``to_json`` encoded; none for the empty text of earlier releases."""
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
        before: The version that the step started from, with the anchor text if there is one.
        weights: The new weights, shape (P,), float32; they may be infinite or NaN.
        mean_delta: The cohort's mean delta, shape (P,), float32.
        loss_before: The loss of the version before on the anchor text, where it is known.
        loss_chosen: The loss of the version that an operator last chose.
    """
    layout = ParamLayout.for_config(before.config)
    with np.errstate(invalid="ignore"):
        non_finite = int(np.count_nonzero(~(np.abs(weights) <= LARGEST_WEIGHT)))
        step = weights.astype(np.float64) - before.weights
    loss = None
    if before.anchor is not None and not non_finite:
        from keyflock_models.network.anchor_loss import anchor_loss

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
