"""Shortening what is long: whole deltas, and single rows of the embedding. Scales, never refuses.

A whole delta is clipped to a multiple of the median norm of those accepted so far, so that one phone moves
the mean at most so many times as far as the typical one. A row of the embedding is clipped on its own: a
phone that types one rare word all day is alone with that row, and its delta may be of ordinary length.

The two clips promise different things. A row's bound comes from the delta itself (and a constant), so it is
the same on every replica and in every order of arrival. The median is a process's own and grows with what
arrives: the same reports in the same order give the same clips, another order may not.

Source: McMahan et al. 2018, arXiv:1710.06963 (flat and per-layer clipping); Andrew et al. 2021,
arXiv:1905.03871 (a bound that follows the norms seen), without their privacy.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import DecodedUpdate, Layout
from keyflock_server.aggregation.norm_bound import NormBound
from keyflock_server.aggregation.verdicts import Admitted, Rejected, Verdict
from keyflock_server.rounds.task import Aggregation

#: The tensor whose rows are words.
_ROWS_OF: Final = "embedding"

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WordRows:
    """Where in the flat vector the rows lie, one after the other."""

    start: int
    rows: int
    width: int

    @classmethod
    def of(cls, layout: Layout) -> "WordRows | None":
        """The embedding's rows; None for a layout that has none."""
        for name, shape, offset in zip(layout.names, layout.shapes, layout.offsets, strict=True):
            if name == _ROWS_OF and len(shape) == 2:
                return cls(offset, shape[0], shape[1])
        return None

    @property
    def stop(self) -> int:
        """Behind the last row."""
        return self.start + self.rows * self.width


class RowClipped(NamedTuple):
    """A delta whose rows are within their bound."""

    update: DecodedUpdate
    #: How many were not.
    rows: int


def clip_rows(update: DecodedUpdate, block: WordRows, *, max_ratio: float, max_norm: float) -> RowClipped:
    """``update`` with every row of ``block`` scaled down to the bound; the rest of it is untouched.

    Args:
        update: A finite delta.
        block: Where the rows are.
        max_ratio: Times the median norm of the delta's own rows that are not zero; 0 is no such bound.
        max_norm: In units of the parameters; 0 is no such bound.
    Guarantees:
        No row's norm is above the bound by more than float32 rounding (1e-6 of it); a row below it keeps its
        bits. The result depends on nothing but the arguments. Work grows with the values that are not zero:
        on the default model 0.1 ms for a sparse delta, of which decoding takes 0.4 ms, and 0.6 ms for a dense
        one, of which decoding takes 13 ms (python -m tests.benchmarks.clipping).
    Edge cases:
        no row is too long -> the same object; all rows zero -> the same object
    """
    places, values = update.entries()
    if places is None:
        norms = _dense_norms(values, block)
    else:
        inside = (places >= block.start) & (places < block.stop)
        row_of = (places[inside] - block.start) // block.width
        inner = values[inside]
        norms = np.sqrt(np.bincount(row_of, np.square(inner, dtype=np.float64), block.rows))
    bound = _row_bound(norms, max_ratio, max_norm)
    long_rows = np.flatnonzero(norms > bound)
    if not long_rows.size:
        return RowClipped(update, 0)
    factors = np.ones(block.rows, np.float32)
    factors[long_rows] = bound / norms[long_rows]
    clipped = values.copy()
    if places is None:
        clipped[block.start : block.stop].reshape(block.rows, block.width)[long_rows] *= factors[
            long_rows, None
        ]
    else:
        clipped[inside] = inner * factors[row_of]
    return RowClipped(update.with_values(clipped), int(long_rows.size))


class DeltaJudge:
    """Refuses what is beyond the norm bound, and clips the rest.

    Args:
        rules: The task's.
    Guarantees:
        What is admitted, scaled, has at most ``clip_norm_ratio`` times the median norm, once there is a
        median; what enters the median is the norm before clipping, so that clips do not pull it down.
    """

    def __init__(self, rules: Aggregation) -> None:
        self._rules = rules
        self._bound = NormBound(rules.max_norm_ratio)

    def judge(self, update: DecodedUpdate, layout: Layout) -> Admitted | Rejected:
        """Whether the delta is summed, and what of it."""
        l2_norm = update.l2_norm
        if not self._bound.admits(l2_norm):
            detail = f"the delta's norm is beyond {self._bound.bound:.3g}, the bound of this round"
            return Rejected(Verdict.TOO_LONG, detail)
        clip_norm = self._bound.times_median(self._rules.clip_norm_ratio)
        self._bound.accept(l2_norm)
        rows = self._rows_clipped(update, layout)
        if rows.rows:
            l2_norm = rows.update.l2_norm
        scale = clip_norm / l2_norm if l2_norm > clip_norm else 1.0
        return Admitted(rows.update, scale, rows.rows)

    def shortened(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:
        """An admitted delta with its rows clipped, once more; the scale is for whoever kept it."""
        return self._rows_clipped(update, layout).update

    def _rows_clipped(self, update: DecodedUpdate, layout: Layout) -> RowClipped:
        rules = self._rules
        if rules.row_clip_ratio == 0.0 and rules.row_clip_norm == 0.0:
            return RowClipped(update, 0)
        block = WordRows.of(layout)
        if block is None:
            return RowClipped(update, 0)
        return clip_rows(update, block, max_ratio=rules.row_clip_ratio, max_norm=rules.row_clip_norm)


def _dense_norms(values: Float32, block: WordRows) -> NDArray[np.float64]:
    table = values[block.start : block.stop].reshape(block.rows, block.width)
    squares: NDArray[np.float32] = np.einsum("rw,rw->r", table, table)
    return np.sqrt(squares.astype(np.float64))


def _row_bound(norms: NDArray[np.float64], max_ratio: float, max_norm: float) -> float:
    bound = max_norm or np.inf
    touched = norms[norms > 0.0]
    if max_ratio > 0.0 and touched.size:
        bound = min(bound, max_ratio * float(np.median(touched)))
    return bound
