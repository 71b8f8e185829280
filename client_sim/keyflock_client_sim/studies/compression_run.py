"""One arm once: federated rounds in one process, their versions measured on the way.

Who trains in a round, in which order and with which luck is the seed's to say and no arm's: arms differ in
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

from keyflock_client_sim.demo.text import Sequences
from keyflock_client_sim.measuring.evaluation import evaluate_version
from keyflock_client_sim.studies.compression_options import CompressionOptions
from keyflock_client_sim.studies.compression_rounds import arm_toml, bare_rounds
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training.residuals import ResidualFile
from keyflock_client_sim.training.shelf import ModelDigest
from keyflock_client_sim.training.train_job import TrainedDelta, TrainJob
from keyflock_compression import CodecSpec
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.evaluation import Evaluation

#: From one round to the next, by the phones' clocks: error feedback counts in seconds.
ROUND_S: Final = 3_600.0


class Point(Struct, frozen=True, kw_only=True):
    """A version, and what phones had sent for it and those before."""

    #: Rounds behind it.
    round: int
    #: Of all containers.
    sent_bytes: int
    #: By held-out user: words that were among the first one, and the first three.
    hits_at_1: tuple[int, ...]
    hits_at_3: tuple[int, ...]


class ArmRun(Struct, frozen=True, kw_only=True):
    """What became of one arm under one seed."""

    seed: int
    #: By held-out user: words that are asked.
    words: tuple[int, ...]
    #: From version 0 to the last.
    points: tuple[Point, ...]
    reports: int
    #: Of these, left out because they were judged too long.
    refused: int


@dataclass(frozen=True, slots=True, eq=False)
class Laboratory:
    """What all runs have in common."""

    options: CompressionOptions
    start: Checkpoint
    #: By phone, rows of token ids, shape (N, L + 1), int32.
    phones: Mapping[str, Sequences]
    #: By user none of whose phones trains.
    held_out: Mapping[str, Sequences]
    pool: WorkerPool
    #: Of versions that were measured: all runs have their first in common.
    known: dict[ModelDigest, Evaluation] = field(default_factory=dict)

    async def evaluation(self, model: ModelDigest) -> Evaluation:
        """Of a published version, on all held-out users."""
        if model not in self.known:
            self.known[model] = await evaluate_version(
                self.pool,
                model,
                config=self.start.config,
                vocabulary=self.start.vocabulary,
                sequences=self.held_out,
            )
        return self.known[model]


class Member(NamedTuple):
    """A phone in a round."""

    phone: str
    #: Of its training: order of the examples, candidate words, stochastic rounding.
    seed: int


def cohort(phones: Sequence[str], goal: int, *, seed: int, number: int) -> tuple[Member, ...]:
    """Who trains in a run's round of this number, in the order of their reports; each phone once.

    Guarantees:
        A function of its arguments: every arm has the same phones.
    """
    rng = np.random.default_rng((seed, number))
    chosen = rng.choice(len(phones), goal, replace=False)
    seeds = rng.integers(2**31, size=goal)
    return tuple(Member(phones[at], int(one)) for at, one in zip(chosen, seeds, strict=True))


async def run_arm(
    laboratory: Laboratory, spec: CodecSpec, *, seed: int, on_round: Callable[[int], None]
) -> ArmRun:
    """Plays all rounds.

    Args:
        laboratory: Phones, held-out users and version 0.
        spec: How deltas become bytes.
        seed: Of cohorts and training.
        on_round: Told how many rounds are behind.
    Guarantees:
        A function of laboratory, spec and seed, up to what another machine rounds differently.
    """
    with tempfile.TemporaryDirectory(prefix="keyflock-residuals-") as folder:
        return await _lived(laboratory, spec, seed, Path(folder), on_round)


async def _lived(
    laboratory: Laboratory, spec: CodecSpec, seed: int, residuals: Path, on_round: Callable[[int], None]
) -> ArmRun:
    options, pool = laboratory.options, laboratory.pool
    rounds = bare_rounds(arm_toml(spec, goal=options.goal, rounds=options.rounds), laboratory.start)
    names, codec = tuple(laboratory.phones), spec.to_wire()

    async def trained(member: Member) -> TrainedDelta:
        return await pool.train(
            TrainJob(
                model=model,
                config=laboratory.start.config,
                sequences=laboratory.phones[member.phone],
                plan=rounds.plan,
                codec=codec,
                seed=member.seed,
                residual=ResidualFile.of(residuals, member.phone),
                now_s=ROUND_S * number,
            )
        )

    points: list[Point] = []
    words: tuple[int, ...] = ()
    sent_bytes = reports = refused = 0
    for number in range(options.rounds + 1):
        model = pool.publish(rounds.download())
        if number % options.every == 0 or number == options.rounds:
            found = await laboratory.evaluation(model)
            words = _whole(found.recall_at_1.denominator)
            points.append(
                Point(
                    round=number,
                    sent_bytes=sent_bytes,
                    hits_at_1=_whole(found.recall_at_1.numerator),
                    hits_at_3=_whole(found.recall_at_3.numerator),
                )
            )
        if number == options.rounds:
            break
        members = cohort(names, options.goal, seed=seed, number=number)
        for report in await asyncio.gather(*map(trained, members)):
            sent_bytes += len(report.container)
            reports += 1
            refused += not rounds.take(report.container, report.examples)
        rounds.close()
        on_round(number + 1)
    return ArmRun(seed=seed, words=words, points=tuple(points), reports=reports, refused=refused)


def _whole(counts: np.ndarray) -> tuple[int, ...]:
    return tuple(int(one) for one in counts)
