"""Norm clipping of whole deltas and of single rows of the embedding, and rejection of deltas far beyond it.

A whole delta is clipped to a multiple of the task's norm scale, so that one phone moves the mean at most so
many times as far as the typical one. A row of the embedding is clipped on its own: a phone that types one
rare word all day is alone with that row, and its delta may have an ordinary norm.

Both bounds are known before the first report arrives: a row's from the delta itself (and a constant), the
whole delta's from the scale as it was when the round opened. So the clips are the same on every replica, in
every order of arrival and after a restart.

Source: McMahan et al. 2018, arXiv:1710.06963 (flat and per-layer clipping).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import DecodedUpdate, Layout
from keyflock_server.aggregation.norm_scale import MAX_NORM, THIN_RATIO, NormScales
from keyflock_server.aggregation.verdicts import AdmittedReport, RejectedReport, Verdict
from keyflock_server.rounds.task import Aggregation

#: The name of the tensor whose rows are words.
_ROWS_OF: Final = "embedding"

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WordRows:
    """The position of the word rows in the flat vector, where they are contiguous."""

    start: int
    rows: int
    width: int

    @classmethod
    def of(cls, layout: Layout) -> "WordRows | None":
        """Return the embedding's rows; None for a layout without an embedding."""
        for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True):
            if name == _ROWS_OF and len(shape) == 2:
                return cls(offset, shape[0], shape[1])
        return None

    @property
    def stop(self) -> int:
        """Return the end of the last row."""
        return self.start + self.rows * self.width


class RowClipped(NamedTuple):
    """A delta whose rows are within the bound."""

    update: DecodedUpdate
    #: Number of clipped rows.
    rows: int


def clip_rows(update: DecodedUpdate, block: WordRows, *, max_ratio: float, max_norm: float) -> RowClipped:
    """Return ``update`` with every row of ``block`` scaled down to the bound; the rest is unchanged.

    Args:
        update: A finite delta.
        block: The position of the rows.
        max_ratio: The bound as a multiple of the median norm of the delta's nonzero rows; 0 is no such bound.
        max_norm: The bound in units of the parameters; 0 is no such bound.
    Guarantees:
        No row's norm is above the bound by more than float32 rounding (1e-6 of it); a row below it keeps its
        bits. The result depends only on the arguments. The work grows with the number of nonzero values:
        on the default model 0.1 ms for a sparse delta, of which decoding takes 0.4 ms, and 0.6 ms for a dense
        one, of which decoding takes 13 ms (python -m benchmarks.clipping).
    Edge cases:
        no row is too long -> the same object; all rows zero -> the same object
    """
    positions, values = update.entries()
    if positions is None:
        squares = _dense_squares(values, block)
    else:
        (inside,) = ((positions >= block.start) & (positions < block.stop)).nonzero()
        row_of = (positions.take(inside) - block.start) // block.width
        inner = values.take(inside)
        wide = inner.astype(np.float64)
        wide *= wide
        squares = np.bincount(row_of, wide, block.rows).astype(np.float64, copy=False)
    (touched,) = (squares > 0.0).nonzero()
    norms = np.sqrt(squares[touched])
    bound = _row_bound(norms, max_ratio, max_norm)
    is_long = norms > bound
    long_rows = touched[is_long]
    if not long_rows.size:
        return RowClipped(update, 0)
    factors = (bound / norms[is_long]).astype(np.float32)
    clipped = values.copy()
    if positions is None:
        clipped[block.start : block.stop].reshape(block.rows, block.width)[long_rows] *= factors[:, None]
    else:
        factor_of = np.ones(block.rows, np.float32)
        factor_of[long_rows] = factors
        clipped[inside] = inner * factor_of[row_of]
    return RowClipped(update.with_values(clipped), int(long_rows.size))


class DeltaValidator:
    """Clips long deltas, and rejects those whose norm exceeds the round's bound.

    Args:
        rules: The task's aggregation rules.
        scales: The task's norm scales when the round opened, by codec table. Deltas of a table without one
            are bounded by ``MAX_NORM`` alone.
    Guarantees:
        The norm of an admitted delta, scaled, is at most ``clip_norm_ratio`` times the norm scale. The result
        depends only on the arguments.
    """

    def __init__(self, rules: Aggregation, scales: NormScales) -> None:
        self._rules = rules
        self._scales = scales

    def validate(self, update: DecodedUpdate, layout: Layout, table: str) -> AdmittedReport | RejectedReport:
        """Return whether the delta is admitted, and its clipped form."""
        norm, known = update.l2_norm, self._scales.get(table)
        scale = 0.0 if known is None else known.scale
        bound = min(MAX_NORM, self._rules.max_norm_ratio * scale or MAX_NORM)
        if not norm <= bound:  # NaN neither
            return RejectedReport(
                Verdict.NORM_EXCEEDED, f"the delta's norm is beyond {bound:.3g}, the bound of this round"
            )
        is_thin = norm == 0.0 or norm < THIN_RATIO * scale
        rows = self._rows_clipped(update, layout)
        length = rows.update.l2_norm if rows.rows else norm
        clip_norm = self._rules.clip_norm_ratio * scale or MAX_NORM
        return AdmittedReport(
            rows.update,
            scale=clip_norm / length if length > clip_norm else 1.0,
            clipped_rows=rows.rows,
            norm=None if is_thin else norm,
            is_thin=is_thin,
        )

    def clipped(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:
        """Return an admitted delta with its rows clipped again; the caller has stored the scale."""
        return self._rows_clipped(update, layout).update

    def _rows_clipped(self, update: DecodedUpdate, layout: Layout) -> RowClipped:
        rules = self._rules
        if rules.row_clip_ratio == 0.0 and rules.row_clip_norm == 0.0:
            return RowClipped(update, 0)
        block = WordRows.of(layout)
        if block is None:
            return RowClipped(update, 0)
        return clip_rows(update, block, max_ratio=rules.row_clip_ratio, max_norm=rules.row_clip_norm)


def _dense_squares(values: Float32, block: WordRows) -> NDArray[np.float64]:
    table = values[block.start : block.stop].reshape(block.rows, block.width)
    squares: NDArray[np.float32] = np.einsum("rw,rw->r", table, table)
    return squares.astype(np.float64)


def _row_bound(norms: NDArray[np.float64], max_ratio: float, max_norm: float) -> float:
    """Return the bound on a row's norm, given those of the rows that are not zero."""
    bound = max_norm or np.inf
    if max_ratio > 0.0 and norms.size:
        bound = min(bound, max_ratio * _median(norms))
    return bound


def _median(norms: NDArray[np.float64]) -> float:
    """Return what ``numpy.median`` does, which takes three times as long for some thousand numbers."""
    low, high = (norms.size - 1) // 2, norms.size // 2
    ordered = np.partition(norms, (low, high))
    return float(ordered[low] + ordered[high]) / 2.0
