"""Federated averaging in memory, from version to version: no phones, no store, no clock. For measurements.

It calls the functions that the coordinator calls, in the same order. A round is:

1. phones download the newest weights (``download``) and train on their own text;
2. each report is decoded, validated and clipped, weighted, and added to a sum (``add_report``);
3. the server optimiser steps by the weighted mean, which makes the next version (``close_round``).

The caller decides what phones report, and when a round ends.

Source: McMahan et al. 2017, arXiv:1602.05629, algorithm 1; Reddi et al. 2021, arXiv:2003.00295 (the step).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_compression import Layout, decode, encode_weights
from keyflock_server.aggregation.clipping import DeltaValidator
from keyflock_server.aggregation.norm_scale import initial_scales, scales_after_round
from keyflock_server.aggregation.partial_aggregate import PartialAggregate
from keyflock_server.aggregation.server_step import server_step
from keyflock_server.aggregation.verdicts import RejectedReport
from keyflock_server.aggregation.weighting import weight_of
from keyflock_server.protocol.plans import TrainingPlan
from keyflock_server.rounds.task_validation import parse_task

#: The codec table of all reports: the task's own codec.
_TABLE: Final = "codec"


class InMemoryTraining:
    """The rounds of one training task.

    Args:
        task: The task as TOML, of kind ``train``.
        weights: The master weights of version 0, shape (P,), float32; not written to.
        layout: The layout of the weights and of every report.
        reference: The server's own delta (``reference_delta``), shape (P,), float32, the unit of norms; left
            out, norms are not bounded or clipped by it.
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
        self._scales = {} if reference is None else initial_scales(reference, layout, codecs)
        self._sum = PartialAggregate(layout.size)

    @property
    def plan(self) -> TrainingPlan:
        """Return the training plan of phones."""
        return self._spec.training

    @property
    def weights(self) -> NDArray[np.float32]:
        """Return the newest version's master weights, shape (P,), float32."""
        return self._weights

    def download(self) -> bytes:
        """Return the newest version in the form in which phones download it."""
        return encode_weights(self._weights, self._layout)

    def add_report(self, delta: bytes, examples: int) -> bool:
        """Add a report to the open round's sum; return False if it is rejected because of its norm.

        Args:
            delta: The encoded delta.
            examples: Number of sequences that the phone claims to have trained on.
        Raises:
            CodecError: the bytes are no delta of this task.
        """
        update = decode(delta, self._layout, spec=self._spec.codec_spec)
        validator = DeltaValidator(self._spec.aggregation, self._scales)
        report = validator.validate(update, self._layout, _TABLE)
        if isinstance(report, RejectedReport):
            return False
        self._sum.add(report.update, weight_of(examples, self._spec.aggregation), report.scale)
        if report.norm is not None:
            self._sum.norms.add(_TABLE, report.norm)
        return True

    def close_round(self) -> None:
        """Step by the mean of the added reports, and open the next round.

        Raises:
            ValueError: no report was added.
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
