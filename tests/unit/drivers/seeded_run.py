"""A run in virtual time as a program: it prints the summary and the samples of a seed.

    python tests/unit/drivers/seeded_run.py SEED

Phones fail in every way that a profile knows, two tasks share them, one of them asynchronous, and downloads
are differences between versions.
"""

import asyncio
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np

from keyflock_client_sim.drivers.embedded_server import embedded_server, fetch_rounds
from keyflock_client_sim.drivers.fleet_stats import FleetEvent
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.testing.fake_trainers import RandomDeltaTrainer
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator_client import OperatorClient

CONFIG = ModelConfig(vocabulary_size=40, embedding_size=4, hidden_size=8)
LAYOUT = ParamLayout.for_config(CONFIG)
TASK = '[task]\nname = "{name}"\npopulation = "en-US"\n[round]\n{round}\n[pacing]\nmin_s = 5.0\n'
EXAMPLES = {f"phone-{number}": 5 + number for number in range(20)}


async def run(seed: int, folder: Path) -> dict[str, object]:
    """Return the summary of a run, the rounds as the server has them, and a digest of all events."""
    words = [f"w{number}" for number in range(CONFIG.vocabulary_size - 4)]
    vocabulary = build_vocabulary(words, [1 / len(words)] * len(words), oov=0.1, eos=0.1)
    weights = np.random.default_rng(0).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)
    profile = msgspec.structs.replace(
        PROFILES["demo"], loss_share=0.1, drop_out_share=0.2, seconds_per_example=0.5, metered_share=0.3
    )
    population, clock, events = PopulationName("en-US"), VirtualClock(), hashlib.sha256()

    def record(event: FleetEvent) -> None:
        events.update(repr(event).encode())

    opening = embedded_server(
        folder / "server",
        clock,
        seed=seed,
        population=population,
        checkpoint=Checkpoint(CONFIG, vocabulary, weights).to_bytes(),
        task=TASK.format(name="t", round="goal = 6"),
    )
    async with opening as server:
        second = TASK.format(name="s", round='mode = "async"\ngoal = 5\nconcurrency = 6')
        await OperatorClient(server, server.admin_token).create_task(second, reason="a test")
        phones = make_fleet(EXAMPLES, population=population, profile=profile, seed=seed)
        trainer = RandomDeltaTrainer(EXAMPLES, LAYOUT)
        stats = await VirtualTimeFleet(phones, server, trainer, clock, listener=record).run(limit_s=60.0)
        views = [view for task in ("t", "s") for view in await fetch_rounds(server, task)]
    return {"events": events.hexdigest(), **stats.summary(), "rounds": msgspec.to_builtins(views)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(json.dumps(asyncio.run(run(int(sys.argv[1]), Path(place)))) + "\n")
