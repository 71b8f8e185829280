"""A run is one arm under one seed: federated rounds in one process, their versions measured on the way.

The seed decides which phones train in a round, in which order and with which random numbers: arms differ in
what their bytes hold, and from the second round on in the model that phones train from.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from keyflock_client_sim.experiments.compression.options import CompressionOptions
from keyflock_client_sim.experiments.compression.training_rounds import arm_toml, training_rounds
from keyflock_client_sim.measuring.evaluation import evaluate_version
from keyflock_client_sim.training.model_folder import ModelDigest
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.residuals import ResidualFile
from keyflock_client_sim.training.train_job import TrainedDelta, TrainJob
from keyflock_client_sim.training_setup.text import Sequences
from keyflock_compression import CodecSpec
from keyflock_models.evaluation.measures import Evaluation
from keyflock_models.network.checkpoint import Checkpoint

#: From one round to the next, by the phones' clocks: error feedback counts in seconds.
ROUND_S: Final = 3_600.0


class CompressionPoint(Struct, frozen=True, kw_only=True):
    """A measured version, and what phones had sent for it and those before."""

    #: The number of rounds before it.
    round: int
    #: The size of all containers.
    sent_bytes: int
    #: Words that were the first suggestion, and among the first three, by held-out user.
    hits_at_1: tuple[int, ...]
    hits_at_3: tuple[int, ...]


class ArmResult(Struct, frozen=True, kw_only=True):
    """The result of one arm under one seed."""

    seed: int
    #: The number of words by held-out user.
    words: tuple[int, ...]
    #: From version 0 to the last.
    points: tuple[CompressionPoint, ...]
    reports: int
    #: Reports left out because their norm was exceeded.
    refused: int


@dataclass(frozen=True, slots=True, eq=False)
class CompressionExperiment:
    """What all runs have in common."""

    options: CompressionOptions
    start: Checkpoint
    #: Rows of token ids by phone, shape (N, L + 1), int32.
    phones: Mapping[str, Sequences]
    #: Rows of token ids by held-out user.
    held_out: Mapping[str, Sequences]
    pool: WorkerPool
    #: Evaluations by version: all runs have their first version in common.
    evaluations: dict[ModelDigest, Evaluation] = field(default_factory=dict)

    async def evaluation(self, model: ModelDigest) -> Evaluation:
        """Return the evaluation of a published version on all held-out users."""
        if model not in self.evaluations:
            self.evaluations[model] = await evaluate_version(
                self.pool,
                model,
                config=self.start.config,
                vocabulary=self.start.vocabulary,
                sequences=self.held_out,
            )
        return self.evaluations[model]


class CohortMember(NamedTuple):
    """A phone in a round."""

    phone: str
    #: The seed of its training: order of the examples, candidate words, stochastic rounding.
    seed: int


def draw_cohort(phones: Sequence[str], goal: int, *, seed: int, number: int) -> tuple[CohortMember, ...]:
    """Draw the phones of a round, in the order of their reports; each phone once.

    Guarantees:
        A function of its arguments: every arm has the same phones.
    """
    rng = np.random.default_rng((seed, number))
    chosen = rng.choice(len(phones), goal, replace=False)
    seeds = rng.integers(2**31, size=goal)
    return tuple(CohortMember(phones[at], int(one)) for at, one in zip(chosen, seeds, strict=True))


async def run_arm(
    experiment: CompressionExperiment, spec: CodecSpec, *, seed: int, on_round: Callable[[int], None]
) -> ArmResult:
    """Run all rounds.

    Args:
        experiment: Phones, held-out users and version 0.
        spec: How deltas become bytes.
        seed: The seed of cohorts and training.
        on_round: Called with the number of finished rounds.
    Guarantees:
        A function of experiment, spec and seed, up to what another machine rounds differently.
    """
    with tempfile.TemporaryDirectory(prefix="keyflock-residuals-") as folder:
        return await _run_rounds(experiment, spec, seed, Path(folder), on_round)


async def _run_rounds(
    experiment: CompressionExperiment,
    spec: CodecSpec,
    seed: int,
    residuals: Path,
    on_round: Callable[[int], None],
) -> ArmResult:
    options, pool = experiment.options, experiment.pool
    rounds = training_rounds(arm_toml(spec, goal=options.goal, rounds=options.rounds), experiment.start)
    names, codec = tuple(experiment.phones), spec.to_wire()

    async def trained(member: CohortMember) -> TrainedDelta:
        return await pool.train(
            TrainJob(
                model=model,
                config=experiment.start.config,
                sequences=experiment.phones[member.phone],
                plan=rounds.plan,
                codec=codec,
                seed=member.seed,
                residual=ResidualFile.of(residuals, member.phone),
                now_s=ROUND_S * number,
            )
        )

    points: list[CompressionPoint] = []
    words: tuple[int, ...] = ()
    sent_bytes = reports = refused = 0
    for number in range(options.rounds + 1):
        model = pool.publish(rounds.download())
        if number % options.every == 0 or number == options.rounds:
            found = await experiment.evaluation(model)
            words = _counts(found.recall_at_1.denominator)
            points.append(
                CompressionPoint(
                    round=number,
                    sent_bytes=sent_bytes,
                    hits_at_1=_counts(found.recall_at_1.numerator),
                    hits_at_3=_counts(found.recall_at_3.numerator),
                )
            )
        if number == options.rounds:
            break
        members = draw_cohort(names, options.goal, seed=seed, number=number)
        for report in await asyncio.gather(*map(trained, members)):
            sent_bytes += len(report.container)
            reports += 1
            refused += not rounds.add_report(report.container, report.examples)
        rounds.close_round()
        on_round(number + 1)
    return ArmResult(seed=seed, words=words, points=tuple(points), reports=reports, refused=refused)


def _counts(counts: np.ndarray) -> tuple[int, ...]:
    return tuple(int(one) for one in counts)
