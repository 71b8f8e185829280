"""A run is one fleet in one mode: recall over virtual time, and what it took."""

import tempfile
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from keyflock_client_sim.device.device_events import AssignmentReceived, ReportAcked
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.drivers.embedded_server import embedded_server, fetch_rounds
from keyflock_client_sim.drivers.fleet_stats import FleetEvent
from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
from keyflock_client_sim.drivers.virtual_clock import EPOCH, VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.experiments.modes.task import TASK
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_client_sim.measuring.evaluation import evaluate_version
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.model_downloads import ModelDownloads
from keyflock_client_sim.training_setup.task import POPULATION
from keyflock_client_sim.training_setup.text import DemoText, Sequences
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.rounds import RoundView

HOUR_S: Final = 3_600.0
#: The number of points of a curve; each is a model that is measured.
POINTS: Final = 24
#: The virtual time between two ticks of the server: far below any phone's training time.
_TICK_S: Final = 4.0
_INSTALLATION: Final = Installation(population=PopulationName(POPULATION), app_build=100, locale="en-US")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModesPoint:
    """The newest model at an instant, and the work done by then."""

    at_h: float
    version: int
    #: Recall@3 on phones that took no part.
    recall_at_3: float
    #: Reports in the versions so far.
    reports: float
    #: The number of assignments, whatever their result.
    trainings: float
    #: The bytes of acknowledged deltas.
    uploaded_bytes: float


@dataclass(frozen=True, slots=True)
class ModeResult:
    """The result of a fleet in a mode."""

    mode: str
    seed: int
    rate: float
    points: tuple[ModesPoint, ...]

    @property
    def mean_recall(self) -> float:
        """Return the mean over the time: of two curves the higher one is better."""
        return sum(point.recall_at_3 for point in self.points[1:]) / (len(self.points) - 1)

    @property
    def end_recall(self) -> float:
        """Return the mean of the last three points, for a single one is noisy."""
        return sum(point.recall_at_3 for point in self.points[-3:]) / 3


@dataclass(slots=True)
class FleetTimeline:
    """The events of a fleet in order of time."""

    assigned_at: list[float] = field(default_factory=list)
    acked_at: list[float] = field(default_factory=list)
    #: The sum of the acknowledged deltas up to each instant.
    acked_bytes: list[int] = field(default_factory=list)

    def record(self, fleet_event: FleetEvent) -> None:
        """Record an event; see ``EventListener``."""
        match fleet_event.event:
            case AssignmentReceived():
                self.assigned_at.append(fleet_event.at_s)
            case ReportAcked(delta_bytes=size):
                self.acked_at.append(fleet_event.at_s)
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
) -> ModeResult:
    """Run a fleet for so many hours, and then measure the versions that it made over time.

    Args:
        mode: The name of the mode in tables.
        task: The task as TOML, named `TASK`.
        rate: The server's learning rate, for the record.
        seed: The fleet's seed: it decides traits, failures, and whom the server samples.
        hours: Hours of virtual time.
        start: Version 0.
        text: The text of phones and of held-out users.
        profile: The distribution of the phones' traits.
        pool: Trains and measures.
    """
    sequences = text.phones
    phones = make_fleet(
        {device: len(rows) for device, rows in sequences.items()},
        population=PopulationName(POPULATION),
        profile=profile,
        seed=seed,
    )
    clock, timeline = VirtualClock(), FleetTimeline()
    with tempfile.TemporaryDirectory(prefix="keyflock-modes-") as folder:
        opening = embedded_server(
            Path(folder) / "server",
            clock,
            seed=seed,
            population=POPULATION,
            checkpoint=start.to_bytes(),
            task=task,
        )
        async with opening as server:
            trainer = PoolTrainer(pool, start.config, sequences, lambda: clock.now_s)
            fleet = VirtualTimeFleet(phones, server, trainer, clock, listener=timeline.record, tick_s=_TICK_S)
            await fleet.run(limit_s=hours * HOUR_S)
            made = MadeVersions.of(await fetch_rounds(server, TASK))
            downloads = ModelDownloads(server, _INSTALLATION)
            instants = [hours * HOUR_S * number / POINTS for number in range(POINTS + 1)]
            recalls: dict[int, float] = {}
            for version in sorted({made.version(at_s) for at_s in instants}):
                body = await downloads.fetch(version)
                recalls[version] = await _recall_at_3(pool, body, start, text.held_out.sequences)
    points = tuple(_point(at_s, made, timeline, recalls) for at_s in instants)
    return ModeResult(mode, seed, rate, points)


@dataclass(frozen=True, slots=True)
class MadeVersions:
    """When each version was made, and how many reports were in it and those before it."""

    at_s: tuple[float, ...]
    reports: tuple[int, ...]

    @classmethod
    def of(cls, views: list[RoundView]) -> "MadeVersions":
        """Return the versions of a task's rounds; rounds without a result made none."""
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
        """Return the newest version at that time."""
        return bisect_right(self.at_s, at_s)


def _point(
    at_s: float, made: MadeVersions, timeline: FleetTimeline, recalls: Mapping[int, float]
) -> ModesPoint:
    version, acked = made.version(at_s), bisect_right(timeline.acked_at, at_s)
    return ModesPoint(
        at_h=at_s / HOUR_S,
        version=version,
        recall_at_3=recalls[version],
        reports=made.reports[version],
        trainings=bisect_right(timeline.assigned_at, at_s),
        uploaded_bytes=timeline.acked_bytes[acked - 1] if acked else 0,
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
