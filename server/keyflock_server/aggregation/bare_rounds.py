"""A task's rounds with nothing around them: no phone to admit, no store, no clock. For measurements.

From a report's bytes to the next version by the functions that the coordinator calls, in its order: decode,
judge, weigh, sum, step, package. What a phone reports, and when a round ends, is the caller's to say.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import Layout, decode, encode_weights
from keyflock_server.aggregation.clipping import DeltaJudge
from keyflock_server.aggregation.norm_scale import beginning_scales, scales_after_round
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.aggregation.verdicts import Rejected
from keyflock_server.aggregation.weighting import weight_of
from keyflock_server.protocol.messages import TrainingPlan
from keyflock_server.rounds.task import parse_task

#: All reports are encoded by the task's own codec.
_TABLE: Final = "codec"


class BareRounds:
    """One training task on its way from version to version.

    Args:
        task: As TOML, of kind ``train``.
        weights: The master weights of version 0, shape (P,), float32; not written to.
        layout: Of the weights and of every report.
        reference: The server's own delta (``reference_delta``), shape (P,), float32, by which lengths are
            measured; left out, they are not judged.
    Guarantees:
        The same reports in the same order give the same versions, bit for bit.
    Raises:
        TaskError: the task cannot be run as written.
    """

    def __init__(
        self,
        task: str,
        weights: NDArray[np.float32],
        layout: Layout,
        reference: NDArray[np.float32] | None = None,
    ) -> None:
        self._spec = parse_task(task)
        self._layout = layout
        self._weights = weights
        self._state: bytes | None = None
        codecs = {_TABLE: self._spec.codec}
        self._scales = {} if reference is None else beginning_scales(reference, layout, codecs)
        self._sum = PartialAggregate(layout.size)

    @property
    def plan(self) -> TrainingPlan:
        """How phones train."""
        return self._spec.training

    @property
    def weights(self) -> NDArray[np.float32]:
        """The newest version's master weights, shape (P,), float32."""
        return self._weights

    def download(self) -> bytes:
        """The newest version as phones get it."""
        return encode_weights(self._weights, self._layout)

    def take(self, delta: bytes, examples: int) -> bool:
        """Sums a report of the round under way; False if it is judged too long, and left out.

        Args:
            delta: The container.
            examples: Sequences that the phone says it trained on.
        Raises:
            CodecError: the bytes are no delta of this task.
        """
        update = decode(delta, self._layout, spec=self._spec.codec_spec)
        said = DeltaJudge(self._spec.aggregation, self._scales).judge(update, self._layout, _TABLE)
        if isinstance(said, Rejected):
            return False
        self._sum.add(said.update, weight_of(examples, self._spec.aggregation), said.scale)
        if said.norm is not None:
            self._sum.norms.add(_TABLE, said.norm)
        return True

    def close(self) -> None:
        """Steps by the mean of what was taken, and begins the next round.

        Raises:
            ValueError: nothing was taken.
        """
        optimizer = self._spec.optimizer
        stepped = server_step(
            self._weights,
            self._state,
            self._sum.mean(),
            optimizer.name,
            self._spec.optimizer_parameters,
            optimizer.schedule,
        )
        self._weights, self._state = stepped.weights, stepped.state
        self._scales = scales_after_round(self._scales, self._sum.norms)
        self._sum = PartialAggregate(self._layout.size)
