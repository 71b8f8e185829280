"""Phones judge versions: a planted worse one is measured worse by what it is, and an equal one equal."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.unit.evaluating.skewed_users import (
    BIASES,
    SpoilingTrainer,
    ranking_checkpoint,
    ranking_weights,
    typed,
)
from tests.unit.personalising.phone_users import CONFIG, LAYOUT, VOCABULARY, Here

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.drivers.embedded_server import embedded_server, fetch_rounds
from keyflock_client_sim.drivers.fleet_stats import FleetStats
from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.evaluating.evaluating_trainer import ALL_CAPABILITIES, EvaluatingTrainer
from keyflock_client_sim.evaluating.held_out_messages import split_messages
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import running_server
from keyflock_models.evaluation.measures import evaluate
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.text.sequences import encode_messages
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.populations import ROLL_BACK, RollbackOrder
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator_client import OperatorClient
from keyflock_server.simulation import SocketlessServer

POPULATION = PopulationName("en-US")
PHONES = 28
MESSAGES = {f"phone-{number}": typed(number) for number in range(PHONES)}
HELD_OUT = {phone: split_messages(messages, phone).held_out for phone, messages in MESSAGES.items()}
PACING = "[pacing]\nmin_s = {min_s}\nmax_s = {max_s}\n"
TRAINING = """
[task]
name = "spoiling"
population = "en-US"
[round]
goal = 4
over_selection = 0.0
max_rounds = 1
selection_s = 1.0
[aggregation]
weighting = "uniform"
max_norm_ratio = 0.0
clip_norm_ratio = 0.0
[codec]
codec = "float32"
[optimizer]
name = "fedavg"
"""
EVALUATING = """
[task]
name = "quality"
population = "en-US"
kind = "evaluate"
[round]
goal = 20
over_selection = 0.0
max_rounds = {rounds}
selection_s = 1.0
[evaluating]
baseline = 0
metrics = ["recall_at_1", "recall_at_3", "nll"]
"""


def phones(profile: str, retry_policy: RetryPolicy | None = None) -> tuple[Phone, ...]:
    return make_fleet(
        dict.fromkeys(MESSAGES, 20),
        population=POPULATION,
        profile=PROFILES[profile],
        seed=1,
        retry_policy=retry_policy,
        capabilities=ALL_CAPABILITIES,
    )


def trainer(folder: Path) -> EvaluatingTrainer:
    folder.mkdir(parents=True)
    return EvaluatingTrainer(SpoilingTrainer(), Here(folder), CONFIG, VOCABULARY, HELD_OUT)


def is_over(stats: FleetStats) -> bool:
    return stats.no_more_tasks > 0


class Operated:
    """The server, and an operator who takes the spoilt version back once it was judged."""

    def __init__(self, server: SocketlessServer) -> None:
        self._server = server
        self._operator = OperatorClient(server, server.admin_token)
        self._is_taken_back = False

    async def send(self, request: Request) -> Response:
        """Send it on to the server."""
        return await self._server.send(request)

    async def tick(self) -> None:
        """Let the server do what is due, and look whether the first evaluation has closed."""
        await self._server.tick()
        if self._is_taken_back:
            return
        views = await self._operator.rounds("quality")
        if views and views[0].phase == "closed":
            order = RollbackOrder(to=0, reason="the phones measured it worse")
            body = msgspec.json.encode(order)
            await self._operator.call(ROLL_BACK, {"population": POPULATION}, body)
            self._is_taken_back = True


async def in_virtual_time(folder: Path) -> tuple[FleetStats, list[RoundView]]:
    clock = VirtualClock()
    pacing = PACING.format(min_s=5.0, max_s=60.0)
    opening = embedded_server(
        folder / "server",
        clock,
        population=POPULATION,
        checkpoint=ranking_checkpoint().to_bytes(),
        task=TRAINING + pacing,
        seed=3,
    )
    async with opening as server:
        await OperatorClient(server, server.admin_token).create_task(
            EVALUATING.format(rounds=2) + pacing, reason="a test"
        )
        fleet = VirtualTimeFleet(phones("demo"), Operated(server), trainer(folder / "models"), clock)
        stats = await fleet.run(until=is_over, limit_s=14_400.0)
        return stats, await fetch_rounds(server, "quality")


def recall_by_phone(weights: np.ndarray) -> dict[str, float]:
    """Return each phone's recall among the first three suggestions on its held-out text, measured here."""
    scorer = NeuralScorer(CONFIG, weights, VOCABULARY)
    rows = {phone: encode_messages(VOCABULARY, typed) for phone, typed in HELD_OUT.items()}
    return dict(zip(rows, evaluate(scorer, rows).recall_at_3.values.tolist(), strict=True))


async def test_a_worse_version_is_measured_worse_and_an_equal_one_equal(tmp_path: Path) -> None:
    stats, views = await in_virtual_time(tmp_path / "one")

    worse, equal = [view.figures or {} for view in views if view.phase == "closed"]
    # Four phones trained version 1, and may not judge it; version 2 is version 0 again.
    assert [(view.model_version, view.counted) for view in views if view.phase == "closed"] == [
        (1, 20),
        (2, 20),
    ]
    assert stats.reports_acked >= 4 + 20 + 20
    # The third suggestion is typed three times as often as the word that took its place.
    assert worse["recall_at_3.low"] <= -0.1 <= worse["recall_at_3.high"] < -0.05
    assert worse["recall_at_1.difference"] == 0.0
    assert worse["nll.difference"] > 0.0
    for figure in ("difference", "low", "high"):
        assert equal[f"recall_at_3.{figure}"] == 0.0
    assert equal["recall_at_3.candidate"] == equal["recall_at_3.baseline"]
    assert 100.0 < worse["words"] < 400.0


async def test_the_figures_are_those_of_the_phones_that_answered(tmp_path: Path) -> None:
    _, views = await in_virtual_time(tmp_path / "one")

    figures = next(view.figures or {} for view in views if view.phase == "closed")
    before = recall_by_phone(ranking_weights())
    after = recall_by_phone(ranking_weights((*BIASES[:2], 0.5, 0.9)))
    differences = np.array([after[phone] - before[phone] for phone in before])
    # Twenty of the twenty-four that did not train: the mean of all is within what four can move it.
    slack = 8 / 20 * (differences.max() - differences.min())
    assert abs(figures["recall_at_3.difference"] - differences.mean()) <= slack
    half_width = (figures["recall_at_3.high"] - figures["recall_at_3.low"]) / 2
    usual = 2.093 * differences.std(ddof=1) / math.sqrt(20)
    assert usual / 1.6 < half_width < usual * 1.6


async def test_the_same_fleet_measures_the_same(tmp_path: Path) -> None:
    first = await in_virtual_time(tmp_path / "one")
    second = await in_virtual_time(tmp_path / "two")

    assert [view.figures for view in first[1]] == [view.figures for view in second[1]]


@pytest.mark.slow
async def test_phones_judge_a_version_over_http(tmp_path: Path) -> None:
    crew = phones("ideal", retry_policy=RetryPolicy(first_pause_s=0.2))
    pacing = PACING.format(min_s=0.05, max_s=0.5)
    with running_server(tmp_path / "server") as process:
        async with (
            operator_client(process.admin_url, process.admin_token()) as admin,
            HttpExchange(process.sdk_url) as exchange,
        ):
            await admin.create_population(POPULATION, ranking_checkpoint().to_bytes(), reason="a test")
            await admin.create_task(TRAINING + pacing, reason="a test")
            await admin.create_task(EVALUATING.format(rounds=1) + pacing, reason="a test")
            fleet = RealTimeFleet(crew, exchange, trainer(tmp_path / "models"), time_scale=math.inf)

            stats = await fleet.run(until=is_over, limit_s=600.0)

            (view, *_) = await admin.rounds("quality")
            task = await admin.task("quality")
    assert view.phase == "closed", stats.summary()
    assert (view.model_version, view.counted) == (1, 20)
    assert view.figures is not None
    assert view.figures["recall_at_3.high"] < -0.05
    assert task.state == "finished"
    assert LAYOUT.size > len(view.figures)
