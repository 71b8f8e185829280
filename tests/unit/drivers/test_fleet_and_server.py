"""Phones and the real server together: inside one process in virtual time, and over HTTP."""

import asyncio
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.device_events import ReportAcked
from keyflock_client_sim.drivers.embedded_server import embedded_server, fetch_rounds
from keyflock_client_sim.drivers.fleet_stats import FleetEvent, FleetStats
from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import running_server
from keyflock_client_sim.testing.fake_trainers import RandomDeltaTrainer
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator_client import OperatorError

CONFIG = ModelConfig.named("tiny")
LAYOUT = ParamLayout.for_config(CONFIG)
#: A machine that stalls for seconds makes the server send new phones away for minutes: it is overloaded.
PATIENCE_S = 600.0
EXAMPLES = {f"phone-{number}": 10 + number for number in range(12)}
POPULATION = PopulationName("en-US")
TASK = """
[task]
name = "t"
population = "en-US"
[round]
goal = {goal}
max_rounds = 2
[pacing]
min_s = {min_s}
max_s = {max_s}
[training]
learning_rate = 0.3
"""


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    words = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
    vocabulary = build_vocabulary(words, [1 / len(words)] * len(words), oov=0.1, eos=0.1)
    weights = np.random.default_rng(0).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)
    return Checkpoint(CONFIG, vocabulary, weights).to_bytes()


def _phones(profile: str, retry_policy: RetryPolicy | None = None) -> tuple[Phone, ...]:
    return make_fleet(
        EXAMPLES, population=POPULATION, profile=PROFILES[profile], seed=1, retry_policy=retry_policy
    )


def _task_is_over(stats: FleetStats) -> bool:
    return stats.no_more_tasks > 0


async def _in_virtual_time(folder: Path, checkpoint: bytes) -> tuple[dict[str, object], list[int]]:
    clock = VirtualClock()
    task = TASK.format(goal=8, min_s=5.0, max_s=60.0)
    async with embedded_server(
        folder, clock, population=POPULATION, checkpoint=checkpoint, task=task
    ) as server:
        fleet = VirtualTimeFleet(_phones("demo"), server, RandomDeltaTrainer(EXAMPLES, LAYOUT), clock)
        stats = await fleet.run(until=_task_is_over, limit_s=7_200.0)
        return stats.summary(), [view.counted for view in await fetch_rounds(server, "t")]


async def test_twelve_phones_close_two_rounds_in_virtual_time(tmp_path: Path, checkpoint: bytes) -> None:
    summary, counted = await _in_virtual_time(tmp_path / "server", checkpoint)

    assert counted == [8, 8]
    assert summary["reports_acked"] == 16
    assert summary["acked_by_round"] == {"t-1": 8, "t-2": 8}


async def test_only_phones_whose_users_agreed_take_part_and_the_server_hears_no_reason(
    tmp_path: Path, checkpoint: bytes
) -> None:
    clock = VirtualClock()
    profile = msgspec.structs.replace(PROFILES["ideal"], opt_in_share=0.5)
    phones = make_fleet(EXAMPLES, population=POPULATION, profile=profile, seed=1)
    task = TASK.format(goal=4, min_s=5.0, max_s=60.0) + "[eligibility.device]\nrequire_opt_in = true\n"
    async with embedded_server(
        tmp_path / "server", clock, population=POPULATION, checkpoint=checkpoint, task=task
    ) as server:
        fleet = VirtualTimeFleet(phones, server, RandomDeltaTrainer(EXAMPLES, LAYOUT), clock)
        await fleet.run(until=_task_is_over, limit_s=7_200.0)

    agreed = {phone.name for phone in phones if phone.traits.is_opted_in}
    took_part = {phone.name for phone in phones if phone.device.counters.reports_acked}
    assert 4 <= len(agreed) < 12
    assert took_part <= agreed
    assert len(took_part) >= 4


async def test_metered_phones_send_the_smaller_codec_within_their_budget(
    tmp_path: Path, checkpoint: bytes
) -> None:
    clock, sizes = VirtualClock(), set[int]()
    profile = msgspec.structs.replace(PROFILES["ideal"], metered_share=0.5, metered_budget_bytes=600)
    phones = make_fleet(EXAMPLES, population=POPULATION, profile=profile, seed=1)
    task = TASK.format(goal=8, min_s=5.0, max_s=60.0) + (
        '[codec]\ncodec = "deadzone_rows"\nstep_rms = 0.1\n'
        '[codec_by_network.metered]\ncodec = "deadzone_rows"\nstep_rms = 2.0\n'
    )

    def watch(fleet_event: FleetEvent) -> None:
        if isinstance(fleet_event.event, ReportAcked):
            sizes.add(fleet_event.event.delta_bytes)

    async with embedded_server(
        tmp_path / "server", clock, population=POPULATION, checkpoint=checkpoint, task=task
    ) as server:
        fleet = VirtualTimeFleet(phones, server, RandomDeltaTrainer(EXAMPLES, LAYOUT), clock, listener=watch)
        stats = await fleet.run(until=_task_is_over, limit_s=7_200.0)

    assert stats.reports_acked == 16
    assert min(sizes) <= 600 < max(sizes)
    assert not [size for size in sizes if 600 < size < max(sizes) / 2]


async def test_a_task_that_the_server_refuses_is_said_in_one_line(tmp_path: Path, checkpoint: bytes) -> None:
    with pytest.raises(OperatorError, match="goal"):
        async with embedded_server(
            tmp_path / "server",
            VirtualClock(),
            population=POPULATION,
            checkpoint=checkpoint,
            task=TASK.format(goal=0, min_s=5.0, max_s=60.0),
        ):
            pass


async def test_twelve_phones_close_two_rounds_over_http(tmp_path: Path, checkpoint: bytes) -> None:
    phones = _phones("ideal", RetryPolicy(first_pause_s=0.2))
    # Twelve phones for eleven places: who is not in the sample is taken after a second, not after minutes.
    task = TASK.format(goal=8, min_s=0.05, max_s=0.5).replace("[pacing]", "selection_s = 1.0\n[pacing]")
    with running_server(tmp_path / "server") as process:
        async with (
            operator_client(process.admin_url, process.admin_token()) as admin,
            HttpExchange(process.sdk_url) as exchange,
        ):
            await admin.create_population(POPULATION, checkpoint, reason="a test")
            await admin.create_task(task, reason="a test")
            fleet = RealTimeFleet(phones, exchange, RandomDeltaTrainer(EXAMPLES, LAYOUT), time_scale=math.inf)

            stats = await fleet.run(until=_task_is_over, limit_s=PATIENCE_S)

            counted = [view.counted for view in await admin.rounds("t")]
    assert sum(counted) == stats.reports_acked, stats.summary()
    assert len(counted) == 2, stats.summary()
    assert all(count >= 4 for count in counted)
    assert asyncio.all_tasks() == {asyncio.current_task()}
