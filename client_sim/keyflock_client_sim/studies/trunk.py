"""The shared model under the personal ones: federated, on other users of the same text.

    other users -> version 0 (a public part of them, or other text) -> rounds in virtual time -> checkpoint

The real server runs inside this process on a virtual clock, the phones train in the worker pool; the user
whose personalisation is measured is never among them. Kept in the user's cache, by what it was made of.
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
from keyflock_client_sim.demo.judge import Downloads
from keyflock_client_sim.demo.task import POPULATION, task_toml
from keyflock_client_sim.device.installation import Installation
from keyflock_client_sim.drivers.embedded import embedded_server
from keyflock_client_sim.drivers.pool_trainer import PoolTrainer
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make
from keyflock_client_sim.fleet.profiles import PROFILES
from keyflock_client_sim.measuring.held_out_text import SEQUENCE_LENGTH
from keyflock_client_sim.pretraining.progress import write_whole
from keyflock_client_sim.training.pool import WorkerPool
from keyflock_compression import decode_weights
from keyflock_models.checkpoint import Checkpoint, CheckpointError
from keyflock_models.layout import ParamLayout
from keyflock_models.sequences import encode_messages
from keyflock_server.protocol.identifiers import PopulationName

#: Phones that a trunk is federated on, at most: more than that no half hour on two cores has use for.
MAX_PHONES: Final = 600


_VISITOR: Final = Installation(population=PopulationName(POPULATION), app_build=100, locale="en-US")


@dataclass(frozen=True, slots=True)
class TrunkOrder:
    """What the rounds are."""

    rounds: int = 40
    goal: int = 60
    seed: int = 0


async def federated(
    start: Checkpoint,
    users: tuple[UserText, ...],
    order: TrunkOrder,
    pool: WorkerPool,
    *,
    cache: Path,
    on_round: Callable[[int], None],
) -> Checkpoint:
    """``start``, moved by federated rounds over these users' phones.

    Args:
        start: Version 0.
        users: Who takes part; none of those who are measured later.
        order: The rounds.
        pool: Trains.
        cache: Where a result is kept for the next time.
        on_round: Told the number of rounds closed so far, now and then.
    """
    name = _key(start, users, order)
    kept = cache / f"trunk-{name}.safetensors"
    try:
        return Checkpoint.from_bytes(kept.read_bytes())
    except (FileNotFoundError, CheckpointError):
        pass
    *_, body = await _rounds(start, users, order, pool, every_version=False, on_round=on_round)
    layout = ParamLayout.of(start.config)
    lineage = {
        **start.lineage,
        "federated_rounds": str(order.rounds),
        "federated_phones": str(len(_phones(users, order))),
    }
    weights = decode_weights(body, layout)
    trunk = Checkpoint(start.config, start.vocabulary, weights, lineage, start.anchor)
    write_whole(trunk.to_bytes(), kept)
    return trunk


async def federated_versions(
    start: Checkpoint,
    users: tuple[UserText, ...],
    order: TrunkOrder,
    pool: WorkerPool,
    *,
    on_round: Callable[[int], None],
) -> list[bytes]:
    """Every version of `federated`, the start among them, as phones download them; nothing is kept."""
    return await _rounds(start, users, order, pool, every_version=True, on_round=on_round)


def _phones(users: tuple[UserText, ...], order: TrunkOrder) -> list[DeviceText]:
    texts = [phone for user in users for phone in into_devices(user)]
    texts.sort(key=lambda phone: hashlib.sha256(f"{order.seed}:{phone.device}".encode()).digest())
    return texts[:MAX_PHONES]


async def _rounds(
    start: Checkpoint,
    users: tuple[UserText, ...],
    order: TrunkOrder,
    pool: WorkerPool,
    *,
    every_version: bool,
    on_round: Callable[[int], None],
) -> list[bytes]:
    sequences = {
        phone.device: encode_messages(start.vocabulary, phone.messages, SEQUENCE_LENGTH)
        for phone in _phones(users, order)
    }
    goal = max(4, min(order.goal, len(sequences) // 2))
    phones = make(
        {device: len(rows) for device, rows in sequences.items()},
        population=PopulationName(POPULATION),
        profile=PROFILES["demo"],
        seed=order.seed,
    )
    clock = VirtualClock()
    with tempfile.TemporaryDirectory(prefix="keyflock-trunk-") as folder:
        opening = embedded_server(
            Path(folder) / "server",
            clock,
            population=POPULATION,
            checkpoint=start.to_bytes(),
            task=task_toml("trunk", goal=goal, rounds=order.rounds),
        )
        async with opening as server:
            trainer = PoolTrainer(pool, start.config, sequences, lambda: clock.now_s)
            fleet = VirtualTimeFleet(phones, server, trainer, clock)

            def is_over(books: object) -> bool:
                del books
                on_round(fleet.books.versions_made)
                return fleet.books.assigned > 0 and fleet.books.sent_home > 0

            await fleet.run(until=is_over)
            last = fleet.books.versions_made
            downloads = Downloads(server, _VISITOR)
            wanted = range(last + 1) if every_version else (last,)
            return [await downloads.version(version) for version in wanted]


def _key(start: Checkpoint, users: tuple[UserText, ...], order: TrunkOrder) -> str:
    parts = (
        distribution_version("keyflock"),
        hashlib.sha256(start.to_bytes()).hexdigest(),
        digest(users),
        task_toml("trunk", goal=order.goal, rounds=order.rounds),
        str(order.seed),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
