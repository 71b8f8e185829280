"""What clipping costs a report, on the default model: one JSON line.

    python -m benchmarks.clipping

Deltas are drawn, not trained: 120 rows of the embedding and one value in a hundred of the rest for a sparse
one, every value for a dense one, with heavy tails. Times are medians of 50.
"""

import json
import statistics
import time
from collections.abc import Callable

import numpy as np

from keyflock_compression import DEFAULT_SPEC, Float32Spec, decode, encode
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_server.aggregation.clipping import DeltaValidator, WordRows, clip_rows
from keyflock_server.aggregation.content_digest import content_digest
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.rounds.task import Aggregation

TIMES = 50


def median_ms(work: Callable[[], object]) -> float:
    """Return the median duration of a call in milliseconds."""
    times_s = []
    for _ in range(TIMES):
        began_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - began_s)
    return round(1e3 * statistics.median(times_s), 3)


def delta_of(layout: ParamLayout, *, is_sparse: bool) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Draw a delta with heavy tails."""
    rng = np.random.default_rng(1)
    delta = (1e-3 * rng.standard_t(3, layout.size)).astype(np.float32)
    block = WordRows.of(layout)
    if is_sparse and block is not None:
        mask = rng.random(layout.size) < 0.01
        mask[block.start : block.stop] = False
        for row in rng.choice(block.rows, 120, replace=False):
            mask[block.start + row * block.width : block.start + (row + 1) * block.width] = True
        delta[~mask] = 0.0
    return delta


def main() -> None:
    """Measure and print."""
    layout = ParamLayout.for_config(ModelConfig())
    block = WordRows.of(layout)
    if block is None:
        raise SystemExit("the default model has no embedding")
    figures: dict[str, object] = {"parameters": layout.size}
    for name, spec in (("sparse", DEFAULT_SPEC), ("dense", Float32Spec())):
        container = encode(delta_of(layout, is_sparse=name == "sparse"), layout, spec, seed=0)
        update = decode(container, layout, spec=spec)
        total = PartialAggregate(layout.size)
        judges = {
            "unclipped": DeltaValidator(Aggregation(clip_norm_ratio=0.0), {}),
            "clipped": DeltaValidator(
                Aggregation(clip_norm_ratio=2.0, row_clip_ratio=2.0), {"codec": NormScale.initial(1e-3)}
            ),
        }
        figures[name] = {
            "values": int(np.count_nonzero(update.dense())),
            "rows_clipped": clip_rows(update, block, max_ratio=2.0, max_norm=0.0).rows,
            "decode_ms": median_ms(lambda c=container, s=spec: decode(c, layout, spec=s)),  # type: ignore[misc]  # bound now
            "digest_ms": median_ms(lambda u=update: content_digest(u)),  # type: ignore[misc]  # bound now
            "add_ms": median_ms(lambda u=update, t=total: t.add(u, 1.0)),  # type: ignore[misc]  # bound now
            "clip_rows_ms": median_ms(lambda u=update: clip_rows(u, block, max_ratio=2.0, max_norm=0.0)),  # type: ignore[misc]  # bound now
            **{
                f"judge_{which}_ms": median_ms(lambda u=update, j=judge: j.validate(u, layout, "codec"))  # type: ignore[misc]  # bound now
                for which, judge in judges.items()
            },
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
