"""This module runs the demo from its first second to its verdict.

    text -> version 0 -> server -> population, task -> phones -> rounds -> judgement

Everything between phones and server goes over HTTP; everything that computes runs in the worker pool, so that
the server has the rest of the machine to itself.
"""

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from keyflock_client_sim.corpora.sources import Corpus
from keyflock_client_sim.corpora.splits import Split
from keyflock_client_sim.demo.cohort_quantization_error import (
    CohortQuantizationError,
    CohortQuantizationErrorJob,
)
from keyflock_client_sim.demo.display import Display
from keyflock_client_sim.demo.folder import DemoFolder
from keyflock_client_sim.demo.personal import measure_personalisation
from keyflock_client_sim.demo.result import DemoResult
from keyflock_client_sim.demo.rounds import DemoRounds, RoundStats
from keyflock_client_sim.demo.version_evaluator import VersionEvaluator, recall_of
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.fleet import population as fleet_population
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.pretraining.progress import write_atomically
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.model_downloads import ModelDownloads
from keyflock_client_sim.training_setup.options import DemoError, DemoOptions
from keyflock_client_sim.training_setup.starting_point import (
    StartingPoint,
    read_checkpoint,
    starting_point,
    version_0,
)
from keyflock_client_sim.training_setup.task import POPULATION, task_toml
from keyflock_client_sim.training_setup.text import DemoText, read_demo_text
from keyflock_models.evaluation.paired_bootstrap import paired_bootstrap
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.tasks import TaskView
from keyflock_server.protocol.operator_client import OperatorClient
from keyflock_server.protocol.plans import TrainingPlan

#: How phones and the evaluator introduce themselves.
INSTALLATION: Final = Installation(population=PopulationName(POPULATION), app_build=100, locale="en-US")
#: The number of phones whose mean delta is measured for what compression costs.
ERROR_COHORT_SIZE: Final = 16
#: The part of the whole run's time that is reserved for the final evaluation.
EVALUATION_S: Final = 55.0


def run_demo(
    options: DemoOptions,
    folder: DemoFolder,
    display: Display,
    *,
    cache: Path,
    clock: Callable[[], float],
) -> DemoResult:
    """Run the demo.

    Args:
        options: The demo's options.
        folder: A folder claimed for the demo.
        display: Shows the progress.
        cache: The user's cache folder; pre-trained models and compiled programs outlive the demo there.
        clock: Seconds that only go forward.
    Guarantees:
        When it returns or raises, no process that it started is left.
    Raises:
        DemoError: it cannot be run as asked.
        CorpusError, ServerStartError, OperatorError: one line says what is wrong.
    """
    began_at_s = clock()
    with display.running():
        display.begin("reading the text")
        corpus, parts = read_demo_text(options)
        # A folder of an earlier run has its own version 0, which may differ from one made today.
        is_kept = folder.checkpoint.exists()
        start = read_checkpoint(folder.checkpoint) if is_kept else starting_point(options, corpus, parts)
        display.begin("starting the server")
        with running_server(folder.server) as server:
            demo = _Demo(options, folder, display, cache, clock, began_at_s)
            result = asyncio.run(demo.run(corpus, parts, start, server))
    folder.summary.write_text(json.dumps(result.summary(), indent=2) + "\n", encoding="utf-8")
    return result


@dataclass(frozen=True, slots=True)
class _Demo:
    options: DemoOptions
    folder: DemoFolder
    display: Display
    cache: Path
    clock: Callable[[], float]
    began_at_s: float

    async def run(
        self, corpus: Corpus, parts: Split, start_from: StartingPoint, server: ServerProcess
    ) -> DemoResult:
        async with (
            WorkerPool.of_cores(compilation_cache=self.cache / "xla") as pool,
            operator_client(server.admin_url, server.admin_token()) as admin,
            HttpExchange(server.sdk_url) as exchange,
        ):
            began_at_s = self.clock()
            checkpoint = await self._version_0(start_from, pool)
            pretrain_s = self.clock() - began_at_s
            text = await asyncio.to_thread(DemoText.of, parts, checkpoint.vocabulary)
            task = await self._task(admin, checkpoint)
            self._print_introduction(corpus, parts, text, checkpoint)

            evaluator = VersionEvaluator(pool, ModelDownloads(exchange, INSTALLATION), checkpoint, text)
            self.display.begin("judging version 0, and counting words for comparison")
            start, unigram, trigram = await asyncio.gather(
                evaluator.evaluate_in_full(0), evaluator.unigram(), evaluator.trigram()
            )
            start_on_sample = await evaluator.evaluate_on_sample(0)
            self.display.show_start(start_on_sample)

            stats = RoundStats()
            fleet = self._fleet(text, checkpoint, pool, exchange, stats)
            parameters = checkpoint.config.parameter_count
            rounds = DemoRounds(admin, fleet, stats, evaluator, self.display, parameters, self.clock)
            rows = await rounds.run(task.name, wanted=self.options.rounds, until_s=self._until_s())
            if not rows:
                raise DemoError("No round came to its end in time; try a lower --goal or a smaller --size.")

            self.display.begin("judging the last version")
            end, error = await asyncio.gather(
                evaluator.evaluate_in_full(rows[-1].version),
                self._cohort_quantization_error(pool, evaluator, task, text, rows[-1].version),
            )
            self.display.begin("learning each user's own words")
            personal = await measure_personalisation(pool, await evaluator.publish(rows[-1].version), parts)
            counted = sum(view.counted for view in await admin.rounds(task.name))
        return DemoResult(
            rounds=rows,
            reports_acked=fleet.stats.reports_acked,
            reports_counted=counted,
            start=recall_of(start),
            start_on_sample=start_on_sample,
            end=recall_of(end),
            unigram=recall_of(unigram),
            trigram=recall_of(trigram),
            gain_at_1=paired_bootstrap(end.recall_at_1, start.recall_at_1, seed=self.options.seed),
            gain_at_3=paired_bootstrap(end.recall_at_3, start.recall_at_3, seed=self.options.seed),
            bytes_per_report=fleet.stats.delta_bytes / max(1, fleet.stats.reports_acked),
            parameters=parameters,
            cohort_nmse=error.nmse,
            devices=len(text.phones),
            held_out_devices=text.held_out_phones,
            pretrain_s=pretrain_s,
            seconds=self.clock() - self.began_at_s,
            personal=personal,
        )

    async def _version_0(self, start: StartingPoint, pool: WorkerPool) -> Checkpoint:
        self.display.begin("making version 0")
        checkpoint = await version_0(
            start,
            pool,
            cache=self.cache / "pretrained",
            clock=self.clock,
            on_progress=self.display.show_pretraining,
        )
        write_atomically(checkpoint.to_bytes(), self.folder.checkpoint)
        return checkpoint

    async def _task(self, admin: OperatorClient, checkpoint: Checkpoint) -> TaskView:
        """Create a new task over the population, which is made if this folder has none yet."""
        if not any(population.name == POPULATION for population in await admin.populations()):
            await admin.create_population(POPULATION, checkpoint.to_bytes(), reason="The demo begins.")
        earlier = await admin.tasks()
        for unfinished in earlier:
            if unfinished.state in {"active", "paused"}:
                await admin.cancel_task(unfinished.name, reason="The demo begins anew.")
        name = f"demo-{len(earlier) + 1}"
        task = task_toml(name, goal=self.options.goal, rounds=self.options.rounds)
        return await admin.create_task(task, reason="The demo begins.")

    def _print_introduction(
        self, corpus: Corpus, parts: Split, text: DemoText, checkpoint: Checkpoint
    ) -> None:
        if parts.left_out.users:
            self.display.print_line(str(parts.left_out))
        self.display.print_line(
            f"{corpus.name}: {len(text.phones)} phones learn, {text.held_out_phones} others are asked. "
            f"Version 0: {checkpoint.config.parameter_count:,} parameters, "
            f"pre-trained on {checkpoint.lineage.get('pretrained_on', 'nothing')}."
        )

    def _fleet(
        self,
        text: DemoText,
        checkpoint: Checkpoint,
        pool: WorkerPool,
        exchange: HttpExchange,
        stats: RoundStats,
    ) -> RealTimeFleet:
        phones = fleet_population.make_fleet(
            {name: len(rows) for name, rows in text.phones.items()},
            population=INSTALLATION.population,
            profile=PROFILES["demo"],
            seed=self.options.seed,
        )
        trainer = PoolTrainer(pool, checkpoint.config, text.phones)
        return RealTimeFleet(phones, exchange, trainer, listener=stats.record)

    async def _cohort_quantization_error(
        self, pool: WorkerPool, evaluator: VersionEvaluator, task: TaskView, text: DemoText, version: int
    ) -> CohortQuantizationError:
        return await pool.run(
            CohortQuantizationErrorJob(
                model=(await evaluator.publish(version)).digest,
                config=evaluator.checkpoint.config,
                cohort=tuple(text.phones.values())[:ERROR_COHORT_SIZE],
                plan=msgspec.convert(task.spec["training"], TrainingPlan),
                codec=task.spec["codec"],
                seed=self.options.seed,
            )
        )

    def _until_s(self) -> float:
        limit_s = self.options.limit_s
        return math.inf if limit_s is None else self.began_at_s + limit_s - EVALUATION_S
