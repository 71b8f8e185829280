"""A batch of clipped reports, from which one is left out: the sum is as if that one had never come."""

import numpy as np
from numpy.typing import NDArray
from tests.unit.coordinator.harness import LAYOUT

from keyflock_compression import Float32Spec, encode
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.norm_scale import NormScale
from keyflock_server.coordinator.micro_batch import AssignedCodec, PendingSum
from keyflock_server.protocol.identifiers import AssignmentId
from keyflock_server.rounds.task import Aggregation

SPEC = Float32Spec()
CODEC = AssignedCodec(SPEC, seed=0, table="codec")
RULES = Aggregation(clip_norm_ratio=1.0, row_clip_norm=0.5, max_norm_ratio=0.0)


def container(norm: float) -> bytes:
    vector: NDArray[np.float32] = np.zeros(LAYOUT.size, np.float32)
    vector[0], vector[-1] = norm, norm
    return encode(vector, LAYOUT, SPEC, seed=0)


def test_a_report_left_out_leaves_the_others_clipped_as_they_were_judged() -> None:
    pending = PendingSum(LAYOUT, DeltaValidator(RULES, {"codec": NormScale.initial(20.0)}))
    for at in range(9):
        pending.add(AssignmentId(f"a{at}"), container(1.0 + at), CODEC, 2.0)
    report = pending.add(AssignmentId("long"), container(100.0), CODEC, 2.0)
    taken = pending.take(lambda _size: True)
    assert taken is not None
    # The next buffer, with another scale, takes the batch over before the sum is made again.
    pending.begin_round(DeltaValidator(RULES, {"codec": NormScale.initial(1.0)}))

    rest = pending.without(taken, [AssignmentId("a0")])

    assert report.scale < 1.0
    assert report.clipped_rows == 1
    assert rest.ids == taken.ids[1:]
    # The one left out was not scaled; its row was cut from 1 to a half.
    np.testing.assert_allclose(taken.sum.sum[0] - rest.sum.sum[0], 2.0 * 0.5, rtol=1e-4)
    np.testing.assert_allclose(taken.sum.sum[-1] - rest.sum.sum[-1], 2.0 * 1.0, rtol=1e-3)
    assert (rest.sum.count, rest.sum.weight) == (9, 18.0)
