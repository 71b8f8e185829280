"""A fleet whose reports can be told apart in the model: each phone adds 1 at a coordinate of its own.

With uniform weights, rounds of 8 and a server that averages, all sums of synchronous tasks are whole eighths,
exact in float32. So each model version shows, to the last bit, whose reports it was made of. Reports of
asynchronous tasks weigh 1/sqrt(1 + staleness): not exact, but far from each other and from zero.

Phones that judge versions instead each say that they scored a power of two of words, so that the sum of an
evaluation shows whose scores it was made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keyflock_client_sim.device.backoff import RetryPolicy
from keyflock_client_sim.device.device_events import DeviceEnrolled, ReportAcked
from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.fleet_stats import FleetEvent
from keyflock_client_sim.fleet import population
from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_compression import encode, parse_spec
from keyflock_models.evaluation.paired_scores import PairedScore, PairedScores, encode_scores, paired_layout
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId
from keyflock_server.protocol.messages import Capabilities
from keyflock_server.protocol.operator_client import OperatorClient

CONFIG: Final = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
LAYOUT: Final = ParamLayout.for_config(CONFIG)
#: The goal of every task; a power of two, so that the mean of so many one-hot deltas is exact.
ROUND_GOAL: Final = 8
#: Phones that need no time and lose one call in fifty, besides those that kills cost.
PROFILE: Final = FleetProfile(
    seconds_per_example=0.0,
    speed_spread=0.0,
    latency_s=0.0,
    network_spread=0.0,
    loss_share=0.02,
    call_timeout_s=0.2,
    drop_out_share=0.0,
)
_PATIENCE: Final = RetryPolicy(first_pause_s=0.05, max_pause_s=2.0)
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


def task_toml(name: str, population_name: PopulationName, round_table: str) -> str:
    """Return a task whose rounds can be checked, as TOML."""
    return _TASK.format(name=name, population=population_name, goal=ROUND_GOAL, round=round_table)


_EVALUATION: Final = """
[task]
name = "{name}"
population = "{population}"
kind = "evaluate"
[round]
goal = {goal}
{round}
[pacing]
min_s = 0.15
max_s = 0.4
[evaluating]
candidate = "newest"
baseline = 0
metrics = ["recall_at_3"]
"""
#: Coordinates of the phones that score versions.
JUDGES: Final = range(50, 62)
#: What they measure.
METRICS: Final = ("recall_at_3",)


def evaluation_toml(name: str, population_name: PopulationName, round_table: str) -> str:
    """Return a task whose evaluations can be checked, as TOML."""
    return _EVALUATION.format(name=name, population=population_name, goal=ROUND_GOAL, round=round_table)


def weights_of_evaluation(words: float) -> NDArray[np.float64]:
    """Return how often each coordinate's scores are in an evaluation, by all the words that were scored."""
    weights = np.zeros(LAYOUT.size, np.float64)
    for place, coordinate in enumerate(JUDGES):
        weights[coordinate] = (round(words) >> place) & 1
    return weights


class OneHotTrainer:
    """A trainer that returns one-hot deltas: minus one at the phone's own coordinate."""

    def store(self, digest: bytes, body: bytes) -> None:
        """Ignore the model."""

    async def train(self, phone: str, work: Train) -> Trained:
        """Return the phone's one-hot delta, or its scores."""
        if work.evaluating is not None:
            words = 1 << JUDGES.index(int(phone))
            scores = PairedScores(words=words, oov_rate=0.0, scores={"recall_at_3": PairedScore(0.25, 0.5)})
            container = encode(
                encode_scores(scores, METRICS), paired_layout(METRICS), parse_spec(work.codec), seed=0
            )
            return Trained(delta=container, examples=1)
        delta = np.zeros(LAYOUT.size, np.float32)
        delta[int(phone)] = -1.0
        return Trained(delta=encode(delta, LAYOUT, parse_spec(work.codec), seed=0), examples=1)


@dataclass
class ReceiptLog:
    """The receipts that phones got."""

    #: Reports with a receipt: the phone's coordinate and the round of its assignment.
    acked: set[tuple[int, RoundId]] = field(default_factory=set)
    #: How many receipts were for a report that had one already.
    acked_again: int = 0
    #: The phone's coordinate by the device id that the server gave it.
    phones: dict[DeviceId, int] = field(default_factory=dict)
    #: Called at every receipt.
    on_ack: Callable[[], None] = lambda: None

    def record(self, fleet_event: FleetEvent) -> None:
        """Record an enrolment or a receipt; a fleet calls it with each of its events."""
        phone = int(fleet_event.phone)
        match fleet_event.event:
            case DeviceEnrolled(device):
                self.phones[device] = phone
            case ReportAcked() as acked_report:
                self.acked_again += (phone, acked_report.round) in self.acked
                self.acked.add((phone, acked_report.round))
                self.on_ack()
            case _:
                pass


def one_hot_phones(
    population_name: PopulationName, coordinates: Sequence[int], seed: int, kind: str = "train"
) -> tuple[Phone, ...]:
    """Return phones of one population, each named by its coordinate, that do one kind of task."""
    examples = {str(name): 4 for name in coordinates}
    return population.make_fleet(
        examples,
        population=population_name,
        profile=PROFILE,
        seed=seed,
        retry_policy=_PATIENCE,
        capabilities=Capabilities(tasks=(kind,)),
    )


async def create_population(admin: OperatorClient, population_name: PopulationName, *task_tomls: str) -> None:
    """Create a population whose version 0 is all zeros, and its tasks."""
    vocabulary = build_vocabulary([f"word{number}" for number in range(8)], [0.125] * 8, oov=0.1, eos=0.1)
    checkpoint = Checkpoint(CONFIG, vocabulary, np.zeros(LAYOUT.size, np.float32))
    await admin.create_population(population_name, checkpoint.to_bytes(), reason="a drill")
    for toml in task_tomls:
        await admin.create_task(toml, reason="a drill")
