"""A fleet whose reports can be found again in the model: every phone owns one coordinate and adds 1 to it.

With uniform weights, rounds of 8 and a server that averages, all sums of synchronous tasks are whole eighths:
exact in float32. So each model version says, to the last bit, whose reports it was made of. Reports of
asynchronous tasks weigh 1/sqrt(1 + staleness): not exact, but far from each other, and from nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from keyflock_client_sim.demo.admin_client import AdminClient
from keyflock_client_sim.device.backoff import Patience
from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.events import Trained
from keyflock_client_sim.device.notices import Acked, Enrolled
from keyflock_client_sim.drivers.books import Happening
from keyflock_client_sim.fleet import population
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_compression import CodecSpec, encode
from keyflock_models.checkpoint import Checkpoint
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.vocabulary import vocabulary_of
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId

CONFIG: Final = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
LAYOUT: Final = ParamLayout.of(CONFIG)
#: Of every task; a power of two, so that a mean of so many marks is exact.
ROUND_GOAL: Final = 8
#: Calls get lost on the way now and then, besides what the kills do.
PROFILE: Final = FleetProfile(
    seconds_per_example=0.0,
    speed_spread=0.0,
    latency_s=0.0,
    network_spread=0.0,
    loss_share=0.02,
    call_timeout_s=0.2,
    drop_out_share=0.0,
)
_PATIENCE: Final = Patience(first_pause_s=0.05, longest_pause_s=2.0)
_TASK: Final = """
[task]
name = "{name}"
population = "{population}"
[round]
goal = {goal}
{round}
[pacing]
min_s = 0.15
max_s = 0.4
[aggregation]
weighting = "uniform"
max_norm_ratio = 0.0
clip_norm_ratio = 0.0
[codec]
codec = "float32"
[optimizer]
name = "fedavg"
"""


def task(name: str, of: PopulationName, round_table: str) -> str:
    """A task whose rounds can be judged, as TOML."""
    return _TASK.format(name=name, population=of, goal=ROUND_GOAL, round=round_table)


class MarkingTrainer:
    """Adds one to its phone's own coordinate: a delta of minus one there."""

    def store(self, digest: bytes, body: bytes) -> None:
        """The model is not looked at."""

    async def train(self, phone: str, work: Train) -> Trained:
        """The phone's mark."""
        delta = np.zeros(LAYOUT.size, np.float32)
        delta[int(phone)] = -1.0
        return Trained(delta=encode(delta, LAYOUT, CodecSpec.from_wire(work.codec), seed=0), examples=1)


@dataclass
class Ledger:
    """What the phones have seen with their own eyes."""

    #: Reports that a phone holds a receipt for: its coordinate, and the round that it was assigned in.
    acked: set[tuple[int, RoundId]] = field(default_factory=set)
    #: Receipts for reports that had a receipt already.
    acked_again: int = 0
    #: Who is behind a device's name on the server.
    phones: dict[DeviceId, int] = field(default_factory=dict)
    #: Is called at every receipt.
    on_ack: Callable[[], None] = lambda: None

    def watch(self, happening: Happening) -> None:
        """Takes note; a fleet's ``watch``."""
        phone = int(happening.phone)
        match happening.notice:
            case Enrolled(device):
                self.phones[device] = phone
            case Acked() as said:
                self.acked_again += (phone, said.round) in self.acked
                self.acked.add((phone, said.round))
                self.on_ack()
            case _:
                pass


def marking_phones(of: PopulationName, names: Sequence[int], seed: int) -> tuple[Phone, ...]:
    """Phones of one population, each named by its coordinate."""
    examples = {str(name): 4 for name in names}
    return population.make(examples, population=of, profile=PROFILE, seed=seed, patience=_PATIENCE)


async def found(admin: AdminClient, of: PopulationName, *tasks: str) -> None:
    """A population whose version 0 has no marks, and its tasks."""
    vocabulary = vocabulary_of([f"word{number}" for number in range(8)], [0.125] * 8, oov=0.1, eos=0.1)
    checkpoint = Checkpoint(CONFIG, vocabulary, np.zeros(LAYOUT.size, np.float32))
    await admin.create_population(of, checkpoint.to_bytes())
    for toml in tasks:
        await admin.create_task(toml)
