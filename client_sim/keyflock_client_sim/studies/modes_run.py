"""One fleet in one mode: how good the model is as virtual time goes by, and what that took."""

import tempfile
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from keyflock_client_sim.demo.judge import Downloads
from keyflock_client_sim.demo.task import POPULATION
from keyflock_client_sim.demo.text import DemoText, Sequences
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.device.notices import Acked, Assigned
from keyflock_client_sim.drivers.books import Happening
from keyflock_client_sim.drivers.embedded import embedded_server, rounds
from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
from keyflock_client_sim.drivers.virtual_clock import EPOCH, VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_client_sim.measuring.evaluation import evaluate_version
from keyflock_client_sim.studies.modes_task import TASK
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_models.checkpoint import Checkpoint
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator import RoundView

HOUR_S: Final = 3_600.0
#: Points of a curve; each is a model that is measured.
POINTS: Final = 24
#: Virtual time between two passes of the server: far below how long anybody trains.
_TICK_S: Final = 4.0
_VISITOR: Final = Installation(population=PopulationName(POPULATION), app_build=100, locale="en-US")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The newest model at an instant, and all that had been done by then."""

    at_h: float
    version: int
    #: On phones that took no part.
    recall_at_3: float
    #: Reports in the versions so far.
    reports: float
    #: Phones that were given work, whatever came of it.
    trainings: float
    #: Bytes of deltas that were acknowledged.
    uploaded_bytes: float


@dataclass(frozen=True, slots=True)
class ModeRun:
    """A fleet in a mode."""

    mode: str
    seed: int
    rate: float
    points: tuple[Point, ...]

    @property
    def mean_recall(self) -> float:
        """Over the time: of two curves the higher is the better one, sooner or later."""
        return sum(point.recall_at_3 for point in self.points[1:]) / (len(self.points) - 1)

    @property
    def end_recall(self) -> float:
        """Of the last three points, for a single one has its luck."""
        return sum(point.recall_at_3 for point in self.points[-3:]) / 3


@dataclass(slots=True)
class Ledger:
    """What phones did, in order of time."""

    assigned_at: list[float] = field(default_factory=list)
    acked_at: list[float] = field(default_factory=list)
    #: Sum of the acknowledged deltas up to each.
    acked_bytes: list[int] = field(default_factory=list)

    def watch(self, happening: Happening) -> None:
        """See ``Watch``."""
        match happening.notice:
            case Assigned():
                self.assigned_at.append(happening.at_s)
            case Acked(delta_bytes=size):
                self.acked_at.append(happening.at_s)
                self.acked_bytes.append(size + (self.acked_bytes[-1] if self.acked_bytes else 0))
            case _:
                pass


async def run_mode(
    mode: str,
    task: str,
    *,
    rate: float,
    seed: int,
    hours: float,
    start: Checkpoint,
    text: DemoText,
    profile: FleetProfile,
    pool: WorkerPool,
) -> ModeRun:
    """Lets a fleet live for so many hours, and then measures what it had made by each.

    Args:
        mode: What the task is called in tables.
        task: As TOML, named `TASK`.
        rate: The server's learning rate, for the record.
        seed: Of the fleet: who is fast, who drops out.
        hours: Of virtual time.
        start: Version 0.
        text: What lies on phones, and what is asked of versions.
        profile: What phones are like.
        pool: Trains and measures.
    """
    sequences = text.phones
    phones = make(
        {device: len(rows) for device, rows in sequences.items()},
        population=PopulationName(POPULATION),
        profile=profile,
        seed=seed,
    )
    clock, ledger = VirtualClock(), Ledger()
    with tempfile.TemporaryDirectory(prefix="keyflock-modes-") as folder:
        opening = embedded_server(
            Path(folder) / "server", clock, population=POPULATION, checkpoint=start.to_bytes(), task=task
        )
        async with opening as server:
            trainer = PoolTrainer(pool, start.config, sequences, lambda: clock.now_s)
            fleet = VirtualTimeFleet(phones, server, trainer, clock, watch=ledger.watch, tick_s=_TICK_S)
            await fleet.run(limit_s=hours * HOUR_S)
            made = Made.of(await rounds(server, TASK))
            downloads = Downloads(server, _VISITOR)
            instants = [hours * HOUR_S * number / POINTS for number in range(POINTS + 1)]
            recalls: dict[int, float] = {}
            for version in sorted({made.version(at_s) for at_s in instants}):
                body = await downloads.version(version)
                recalls[version] = await _recall_at_3(pool, body, start, text.held_out.sequences)
    points = tuple(_point(at_s, made, ledger, recalls) for at_s in instants)
    return ModeRun(mode, seed, rate, points)


@dataclass(frozen=True, slots=True)
class Made:
    """When each version was there, and how many reports were in it and those before it."""

    at_s: tuple[float, ...]
    reports: tuple[int, ...]

    @classmethod
    def of(cls, views: list[RoundView]) -> "Made":
        """From a task's rounds; those that came to nothing made none."""
        results = sorted(
            (view.result_version, (view.closed_at - EPOCH).total_seconds(), view.counted + view.carried)
            for view in views
            if view.result_version is not None and view.closed_at is not None
        )
        total, totals = 0, [0]
        for _, _, reports in results:
            total += reports
            totals.append(total)
        return cls(tuple(at_s for _, at_s, _ in results), tuple(totals))

    def version(self, at_s: float) -> int:
        """The newest at that time."""
        return bisect_right(self.at_s, at_s)


def _point(at_s: float, made: Made, ledger: Ledger, recalls: Mapping[int, float]) -> Point:
    version, acked = made.version(at_s), bisect_right(ledger.acked_at, at_s)
    return Point(
        at_h=at_s / HOUR_S,
        version=version,
        recall_at_3=recalls[version],
        reports=made.reports[version],
        trainings=bisect_right(ledger.assigned_at, at_s),
        uploaded_bytes=ledger.acked_bytes[acked - 1] if acked else 0,
    )


async def _recall_at_3(
    pool: WorkerPool, body: bytes, start: Checkpoint, held_out: Mapping[str, Sequences]
) -> float:
    found = await evaluate_version(
        pool,
        pool.publish(body),
        config=start.config,
        vocabulary=start.vocabulary,
        sequences=held_out,
    )
    return found.recall_at_3.micro
