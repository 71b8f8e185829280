"""Phones and a real server in virtual time: after its first model a phone gets deltas, over a restart too."""

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.embedded_server import embedded_server, fetch_rounds
from keyflock_client_sim.drivers.fleet_stats import FleetStats
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_compression import decode_weights, encode, parse_spec
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.bootstrap import build_socketless_server
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.simulation import SocketlessServer

CONFIG = ModelConfig(vocabulary_size=500, embedding_size=16, hidden_size=24)
LAYOUT = ParamLayout.for_config(CONFIG)
POPULATION = PopulationName("en-US")
EXAMPLES = {f"phone-{number}": 40 for number in range(12)}
ROUNDS = 4
TASK = f"""
[task]
name = "t"
population = "{POPULATION}"
[round]
goal = 8
max_rounds = {ROUNDS}
[pacing]
min_s = 5.0
max_s = 60.0
[optimizer]
name = "fedavg"
"""


class SparseTrainer:
    """Moves a few of the parameters, as phones do; remembers the weights that each digest stands for."""

    def __init__(self) -> None:
        self.models: dict[bytes, set[bytes]] = {}

    def store(self, digest: bytes, body: bytes) -> None:
        self.models.setdefault(digest, set()).add(decode_weights(body, LAYOUT).tobytes())

    async def train(self, phone: str, work: Train) -> Trained:
        seed = hashlib.sha256(f"{phone}:{work.assignment}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed[:8]))
        delta = np.where(rng.random(LAYOUT.size) < 0.005, rng.normal(0.0, 0.02, LAYOUT.size), 0.0)
        spec = parse_spec(work.codec)
        return Trained(delta=encode(delta.astype(np.float32), LAYOUT, spec, seed=work.seed), examples=40)


class Line:
    """To the server that is there now; keeps account of models' bytes by status."""

    def __init__(self, server: SocketlessServer, *, asks_for_deltas: bool = True) -> None:
        self.server = server
        self.asks_for_deltas = asks_for_deltas
        self.sent: Counter[int] = Counter()
        self.model_bytes: Counter[int] = Counter()

    async def tick(self) -> None:
        await self.server.tick()

    async def send(self, request: Request) -> Response:
        if not self.asks_for_deltas:
            headers = {name: value for name, value in request.headers.items() if name != "A-IM"}
            request = Request(request.method, request.path, headers, request.body)
        response = await self.server.send(request)
        if request.path.startswith("/v1/models/"):
            self.sent[response.status] += 1
            self.model_bytes[response.status] += len(response.body)
        return response


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    words = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
    vocabulary = build_vocabulary(words, [1 / len(words)] * len(words), oov=0.1, eos=0.1)
    weights = np.random.default_rng(0).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)
    return Checkpoint(CONFIG, vocabulary, weights).to_bytes()


def _is_over(stats: FleetStats) -> bool:
    return stats.no_more_tasks > 0


async def _run_fleet(
    folder: Path, checkpoint: bytes, *, deltas: bool
) -> tuple[Line, SparseTrainer, list[int], int]:
    clock, trainer = VirtualClock(), SparseTrainer()
    phones = make_fleet(EXAMPLES, population=POPULATION, profile=PROFILES["ideal"], seed=1)
    async with embedded_server(
        folder, clock, population=POPULATION, checkpoint=checkpoint, task=TASK
    ) as server:
        line = Line(server, asks_for_deltas=deltas)
        await VirtualTimeFleet(phones, line, trainer, clock).run(until=_is_over, limit_s=7_200.0)
        counted = [view.counted for view in await fetch_rounds(server, "t")]
    return line, trainer, counted, sum(phone.device.counters.bytes_down for phone in phones)


async def test_phones_download_deltas_after_the_first_round_and_their_bytes_fall(
    tmp_path: Path, checkpoint: bytes
) -> None:
    line, trainer, counted, down_bytes = await _run_fleet(tmp_path / "deltas", checkpoint, deltas=True)
    plain, _, plain_counted, plain_down_bytes = await _run_fleet(tmp_path / "whole", checkpoint, deltas=False)

    assert counted == plain_counted == [8] * ROUNDS
    assert line.sent[200] <= len(EXAMPLES)  # each phone its first
    assert line.sent[226] > len(EXAMPLES)
    assert plain.sent[226] == 0
    assert line.model_bytes[226] / line.sent[226] < line.model_bytes[200] / line.sent[200] / 3
    assert down_bytes < 0.6 * plain_down_bytes  # twelve of the 32 downloads are first ones
    # Whichever way it came, a version is the same weights to the last bit.
    assert {len(weights) for weights in trainer.models.values()} == {1}


async def test_a_restart_in_between_costs_no_whole_download(tmp_path: Path, checkpoint: bytes) -> None:
    clock, trainer = VirtualClock(), SparseTrainer()
    phones = make_fleet(EXAMPLES, population=POPULATION, profile=PROFILES["ideal"], seed=1)
    folder = tmp_path / "server"
    async with embedded_server(
        folder, clock, population=POPULATION, checkpoint=checkpoint, task=TASK
    ) as server:
        line = Line(server)
        fleet = VirtualTimeFleet(phones, line, trainer, clock)
        await fleet.run(until=lambda stats: stats.reports_acked >= 16, limit_s=7_200.0)
    before = line.sent.copy()
    line.server = restarted = build_socketless_server(folder, clock)
    try:
        await fleet.run(until=_is_over, limit_s=7_200.0)
        counted = [view.counted for view in await fetch_rounds(restarted, "t")]
    finally:
        with suppress(Exception):
            await restarted.close()

    assert counted == [8] * ROUNDS
    assert before[226] > 0
    assert line.sent[226] > before[226]
    assert line.sent[200] <= len(EXAMPLES)
    assert {len(weights) for weights in trainer.models.values()} == {1}
