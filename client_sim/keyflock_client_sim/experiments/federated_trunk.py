"""This module trains the trunk under personal models in federated rounds, on other users of the same text.

    other users -> version 0 (a public part of them, or other text) -> rounds in virtual time -> checkpoint

The real server runs inside this process on a virtual clock, the phones train in the worker pool; the user
whose personalisation is measured is never among them. The trunk is cached under a key of all its inputs.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Final

from keyflock_client_sim.corpora.splits import DeviceText, into_devices
from keyflock_client_sim.corpora.text import UserText, digest
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.drivers.embedded_server import embedded_server
from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH
from keyflock_client_sim.pretraining.progress import write_atomically
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_client_sim.training_setup.model_downloads import ModelDownloads
from keyflock_client_sim.training_setup.task import POPULATION, task_toml
from keyflock_compression import decode_weights
from keyflock_models.network.checkpoint import Checkpoint, CheckpointError
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.sequences import encode_messages
from keyflock_server.protocol.identifiers import PopulationName

#: The maximum number of phones: half an hour on two cores has no use for more.
MAX_PHONES: Final = 600


_INSTALLATION: Final = Installation(population=PopulationName(POPULATION), app_build=100, locale="en-US")


@dataclass(frozen=True, slots=True)
class TrunkSpec:
    """The rounds of a trunk."""

    rounds: int = 40
    goal: int = 60
    seed: int = 0


async def train_trunk(
    start: Checkpoint,
    users: tuple[UserText, ...],
    spec: TrunkSpec,
    pool: WorkerPool,
    *,
    cache: Path,
    on_round: Callable[[int], None],
) -> Checkpoint:
    """Train ``start`` in federated rounds over these users' phones.

    Args:
        start: Version 0.
        users: The users who take part; none of them is measured later.
        spec: The rounds.
        pool: Trains.
        cache: The folder that caches the result.
        on_round: Called with the number of rounds closed so far.
    """
    name = _key(start, users, spec)
    cached = cache / f"trunk-{name}.safetensors"
    try:
        return Checkpoint.from_bytes(cached.read_bytes())
    except (FileNotFoundError, CheckpointError):
        pass
    *_, body = await _rounds(start, users, spec, pool, every_version=False, on_round=on_round)
    layout = ParamLayout.for_config(start.config)
    lineage = {
        **start.lineage,
        "federated_rounds": str(spec.rounds),
        "federated_phones": str(len(_phones(users, spec))),
    }
    weights = decode_weights(body, layout)
    trunk = Checkpoint(start.config, start.vocabulary, weights, lineage, start.anchor)
    write_atomically(trunk.to_bytes(), cached)
    return trunk


async def train_trunk_versions(
    start: Checkpoint,
    users: tuple[UserText, ...],
    spec: TrunkSpec,
    pool: WorkerPool,
    *,
    on_round: Callable[[int], None],
) -> list[bytes]:
    """Return every version of `train_trunk`, version 0 included, as phones download it; nothing is cached."""
    return await _rounds(start, users, spec, pool, every_version=True, on_round=on_round)


def _phones(users: tuple[UserText, ...], spec: TrunkSpec) -> list[DeviceText]:
    texts = [phone for user in users for phone in into_devices(user)]
    texts.sort(key=lambda phone: hashlib.sha256(f"{spec.seed}:{phone.device}".encode()).digest())
    return texts[:MAX_PHONES]


async def _rounds(
    start: Checkpoint,
    users: tuple[UserText, ...],
    spec: TrunkSpec,
    pool: WorkerPool,
    *,
    every_version: bool,
    on_round: Callable[[int], None],
) -> list[bytes]:
    sequences = {
        phone.device: encode_messages(start.vocabulary, phone.messages, SEQUENCE_LENGTH)
        for phone in _phones(users, spec)
    }
    goal = max(4, min(spec.goal, len(sequences) // 2))
    phones = make_fleet(
        {device: len(rows) for device, rows in sequences.items()},
        population=PopulationName(POPULATION),
        profile=PROFILES["demo"],
        seed=spec.seed,
    )
    clock = VirtualClock()
    with tempfile.TemporaryDirectory(prefix="keyflock-trunk-") as folder:
        opening = embedded_server(
            Path(folder) / "server",
            clock,
            seed=spec.seed,
            population=POPULATION,
            checkpoint=start.to_bytes(),
            task=task_toml("trunk", goal=goal, rounds=spec.rounds),
        )
        async with opening as server:
            trainer = PoolTrainer(pool, start.config, sequences, lambda: clock.now_s)
            fleet = VirtualTimeFleet(phones, server, trainer, clock)

            def is_over(stats: object) -> bool:
                del stats
                on_round(fleet.stats.versions_made)
                return fleet.stats.assigned > 0 and fleet.stats.no_more_tasks > 0

            await fleet.run(until=is_over)
            last = fleet.stats.versions_made
            downloads = ModelDownloads(server, _INSTALLATION)
            wanted = range(last + 1) if every_version else (last,)
            return [await downloads.fetch(version) for version in wanted]


def _key(start: Checkpoint, users: tuple[UserText, ...], spec: TrunkSpec) -> str:
    parts = (
        distribution_version("keyflock"),
        hashlib.sha256(start.to_bytes()).hexdigest(),
        digest(users),
        task_toml("trunk", goal=spec.goal, rounds=spec.rounds),
        str(spec.seed),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
