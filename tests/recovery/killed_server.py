"""A fleet that goes on while its server is killed again and again.

Every phone owns one coordinate of the model and adds exactly 1 to it with every report. With uniform
weights, rounds of 8 and a server that averages, all sums are whole eighths: exact in float32. So the final
model says, to the last bit, how often each phone was counted.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from keyflock_client_sim.demo.admin_client import AdminClient
from keyflock_client_sim.demo.server_process import ServerProcess, start_server
from keyflock_client_sim.device.backoff import Patience
from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.events import Trained
from keyflock_client_sim.device.notices import Acked
from keyflock_client_sim.drivers.books import Happening
from keyflock_client_sim.drivers.http_exchange import HttpExchange
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_client_sim.fleet import population
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_compression import CodecSpec, encode
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.vocabulary import vocabulary_of
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator import RoundView
from keyflock_server.storage.blobs import LocalBlobs
from keyflock_server.storage.sql.store import SqlStore

POPULATION = PopulationName("en")
CONFIG = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
LAYOUT = ParamLayout.of(CONFIG)
ROUND_GOAL = 8
TASK = f"""
[task]
name = "killed"
population = "{POPULATION}"
[round]
goal = {ROUND_GOAL}
minimum = {ROUND_GOAL}
over_selection = 0.0
deadline_s = 3600.0
selection_s = 0.5
[pacing]
min_s = 0.1
max_s = 0.2
[aggregation]
weighting = "uniform"
max_norm_ratio = 0.0
[codec]
codec = "float32"
[optimizer]
name = "fedavg"
"""
#: Calls get lost on the way now and then, besides what the kills do.
PROFILE = FleetProfile(
    seconds_per_example=0.0,
    speed_spread=0.0,
    latency_s=0.0,
    network_spread=0.0,
    loss_share=0.02,
    call_timeout_s=0.2,
    drop_out_share=0.0,
)


class MarkingTrainer:
    """Adds one to its phone's own coordinate: a delta of minus one there."""

    def store(self, digest: bytes, body: bytes) -> None:
        """The model is not looked at."""

    async def train(self, phone: str, work: Train) -> Trained:
        """The phone's mark."""
        delta = np.zeros(LAYOUT.size, np.float32)
        delta[int(phone)] = -1.0
        return Trained(delta=encode(delta, LAYOUT, CodecSpec.from_wire(work.codec), seed=0), examples=1)


class MovingExchange:
    """Calls to wherever the server is now; while it is nowhere, they are lost."""

    def __init__(self) -> None:
        self._exchange: HttpExchange | None = None

    async def move(self, url: str) -> None:
        """The server is here now."""
        await self.close()
        self._exchange = HttpExchange(url)

    async def close(self) -> None:
        """No server."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.__aexit__(None, None, None)

    async def send(self, request: Request) -> Response:
        """See ``calls.Exchange``."""
        if self._exchange is None:
            raise ConnectionError("no server")
        try:
            return await self._exchange.send(request)
        except RuntimeError as error:  # the session was closed under the call
            raise ConnectionError(str(error)) from None


@dataclass
class Findings:
    """What the phones and the server say of the same thing."""

    kills: int = 0
    #: Reports acknowledged, by phone's coordinate.
    acked: Counter[int] = field(default_factory=Counter)
    #: Rounds as the operator sees them.
    rounds: list[RoundView] = field(default_factory=list)
    #: The final master weights, shape (P,).
    weights: np.ndarray = field(default_factory=lambda: np.zeros(0))


async def run_with_kills(data_dir: Path, *, phones: int, kills: int, seed: int) -> Findings:
    """The whole story: found, kill, restart, ..., settle; then read the books of both sides."""
    rng, findings = random.Random(seed), Findings()
    names = {str(number): 4 for number in range(phones)}
    patience = Patience(first_pause_s=0.05, longest_pause_s=0.5)
    fleet = population.make(names, population=POPULATION, profile=PROFILE, seed=seed, patience=patience)

    def watch(happening: Happening) -> None:
        if isinstance(happening.notice, Acked):
            findings.acked[int(happening.phone)] += 1

    exchange = MovingExchange()
    driver = RealTimeFleet(fleet, exchange, MarkingTrainer(), watch=watch, drain_s=60.0)
    server = await asyncio.to_thread(start_server, data_dir)
    try:
        await found(server)
        await exchange.move(server.sdk_url)
        running = asyncio.create_task(driver.run())
        for _ in range(kills):
            await asyncio.sleep(rng.uniform(0.05, 1.5))
            await asyncio.to_thread(server.kill)
            findings.kills += 1
            server = await asyncio.to_thread(start_server, data_dir)
            await exchange.move(server.sdk_url)
        await asyncio.sleep(1.0)
        driver.stop()
        await running
        findings.rounds = await settled_rounds(server)
        await exchange.close()
    finally:
        await asyncio.to_thread(server.stop)
    findings.weights = await newest_weights(data_dir)
    return findings


async def settled_rounds(server: ServerProcess) -> list[RoundView]:
    """The rounds, once none of them is between its last report and its version."""
    async with AdminClient(server.admin_url, server.admin_token()) as admin, asyncio.timeout(30.0):
        while True:
            rounds = await admin.rounds("killed")
            if all(one.phase in {"closed", "collecting"} for one in rounds):
                return rounds
            await asyncio.sleep(0.05)


async def found(server: ServerProcess) -> None:
    """The population and the task."""
    vocabulary = vocabulary_of([f"word{number}" for number in range(8)], [0.125] * 8, oov=0.1, eos=0.1)
    checkpoint = Checkpoint(CONFIG, vocabulary, np.zeros(LAYOUT.size, np.float32))
    async with AdminClient(server.admin_url, server.admin_token()) as admin:
        await admin.create_population(POPULATION, checkpoint.to_bytes())
        await admin.create_task(TASK)


async def newest_weights(data_dir: Path) -> np.ndarray:
    """The master weights of the newest version, from the stopped server's files."""
    store, blobs = (
        SqlStore(f"sqlite+aiosqlite:///{data_dir / 'keyflock.sqlite3'}"),
        LocalBlobs(data_dir / "blobs"),
    )
    try:
        version = (await store.populations.versions())[-1]
        return Checkpoint.from_bytes(await blobs.get(version.checkpoint_key)).weights
    finally:
        await store.close()
