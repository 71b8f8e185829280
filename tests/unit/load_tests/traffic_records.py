"""Records of generators, made by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keyflock_load_tests.traffic import TrafficRecord


def traffic_record(
    name: str,
    due_s: Sequence[float],
    took_s: Sequence[float],
    status: int | Sequence[int] = 200,
    *,
    duration_s: float = 10.0,
    books: Any = None,  # noqa: ANN401 - a script's
) -> TrafficRecord:
    """Return a record of calls of one name, each of another visit, sent when it was due."""
    count, due = len(due_s), np.array(due_s)
    return TrafficRecord(
        duration_s=duration_s,
        names=(name,),
        call=np.zeros(count, np.int8),
        visit=np.arange(count, dtype=np.int32),
        due_s=due,
        sent_s=due,
        ended_s=due + np.array(took_s),
        status=np.broadcast_to(np.array(status, np.int16), count),
        unbegun=0,
        cpu_s=1.0,
        wall_s=duration_s,
        books=books,
    )
