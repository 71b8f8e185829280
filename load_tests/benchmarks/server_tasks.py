"""The tasks and populations on which a server is measured, so set that what is measured is what happens."""

import asyncio
import statistics
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.reference_deltas import full_size_start, reference_deltas
from benchmarks.server_rig import PopulationSetup
from keyflock_compression import DEFAULT_SPEC, decode, encode
from keyflock_load_tests.distinct_deltas import DistinctDeltas
from keyflock_load_tests.payload import fresh_checkpoint, synthetic_delta
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout

REFUSED: Final = "refused"
WORKING: Final = "working"
CLOSING: Final = "closing"
#: Reports that close a round.
CLOSING_GOAL: Final = 16
#: Phones of the population whose rounds close: with more than its slots, a round would sample them.
CLOSING_PHONES: Final = 160
_WEEK_S: Final = 604_800.0


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, and deltas of it."""

    checkpoint: bytes
    config: ModelConfig
    deltas: DistinctDeltas
    #: The median norm of the deltas, decoded.
    norm: float


def reference_workload() -> Workload:
    """Return the full-size model, and the reference deltas of all stages in the default codec."""
    reference = reference_deltas()
    checkpoint, _ = asyncio.run(full_size_start())
    layout = reference.layout
    vectors = [delta for deltas in reference.deltas.values() for delta in deltas]
    return _workload(checkpoint, [encode(delta, layout, DEFAULT_SPEC, seed=0) for delta in vectors])


def synthetic_workload(size: str) -> Workload:
    """Return a model of a named size, and synthetic deltas of it."""
    checkpoint = fresh_checkpoint(size, seed=1)
    return workload_of(checkpoint)


def workload_of(checkpoint: Checkpoint) -> Workload:
    """Return synthetic deltas of a model."""
    layout = ParamLayout.for_config(checkpoint.config)
    rng = np.random.default_rng(1)
    vectors = [synthetic_delta(layout, rng) for _ in range(8)]
    return _workload(checkpoint, [encode(delta, layout, DEFAULT_SPEC, seed=0) for delta in vectors])


def _workload(checkpoint: Checkpoint, containers: list[bytes]) -> Workload:
    layout = ParamLayout.for_config(checkpoint.config)
    norms = [decode(one, layout).l2_norm for one in containers]
    return Workload(
        checkpoint.to_bytes(), checkpoint.config, DistinctDeltas(containers), statistics.median(norms)
    )


def refusing_population(checkpoint: bytes, phones: int) -> PopulationSetup:
    """Return a population of which a round samples hardly a phone: it has many, and the round is small."""
    return PopulationSetup(REFUSED, checkpoint, (_task(REFUSED, goal=8, over_selection=0.0),), phones)


def working_population(checkpoint: bytes, phones: int) -> PopulationSetup:
    """Return a population whose round has a slot for each phone, and is never full."""
    return PopulationSetup(WORKING, checkpoint, (_task(WORKING, goal=100_000, over_selection=10.0),), phones)


def closing_population(checkpoint: bytes, phones: int) -> PopulationSetup:
    """Return a population whose rounds close after a few reports."""
    task = _task(CLOSING, goal=CLOSING_GOAL, over_selection=10.0)
    return PopulationSetup(CLOSING, checkpoint, (task,), phones)


def _task(name: str, *, goal: int, over_selection: float) -> str:
    """Return a task named like its population. Its phones may return after a second: the load decides."""
    return f"""
[task]
name = "{name}"
population = "{name}"
[round]
goal = {goal}
minimum = 4
over_selection = {over_selection}
deadline_s = {_WEEK_S}
[pacing]
min_s = 1.0
max_s = 1.0
[training]
learning_rate = 0.316
"""
