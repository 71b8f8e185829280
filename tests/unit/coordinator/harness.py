"""A test harness: a coordinator over the in-memory store, on a clock that only the test moves."""

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tests.contract.audits import AUDIT
from tests.contract.operations import add_device
from tests.memory_store.blobs import MemoryBlobStore
from tests.memory_store.store import MemoryStore

from keyflock_compression import CodecSpec, Float32Spec, decode_weights, encode
from keyflock_compression.spec import CodecName
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.coordinator import (
    ComputeThread,
    Coordinator,
    Dependencies,
    GroupCommit,
    NullObserver,
)
from keyflock_server.coordinator.events import Observer
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.revocations import Revocations
from keyflock_server.identity.users import Users
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.messages import Assignment, Capabilities, CheckIn, EnrolRequest, Refusal, Report
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.rounds.task_validation import parse_task
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.interfaces.record_store import RecordStore
from keyflock_server.storage.records import DeviceRecord

POPULATION = PopulationName("en")
CONFIG = ModelConfig(vocabulary_size=12, embedding_size=2, hidden_size=3)
LAYOUT = ParamLayout.for_config(CONFIG)
KEYS = SigningKeys.of(b"k" * 32)
OWNER_KEY = b"o" * 32


@dataclass
class CoordinatorHarness:
    """Runs one coordinator with its clock and store, and plays its phones and operators."""

    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    store: RecordStore = field(default_factory=MemoryStore)
    blobs: BlobStore = field(default_factory=MemoryBlobStore)
    ack_wait_s: float = 0.0
    #: Whether flushes keep their interval on the event loop's clock.
    is_real_time: bool = False
    #: How far the server is beyond its capacity.
    load: float = 0.0
    observer: Observer = field(default_factory=NullObserver)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.coordinator = self.another_coordinator()

    def another_coordinator(self, replica: str = "") -> Coordinator:
        """Return a new process over the same store; with a name, one of several that share it."""
        self.tokens = AssignmentTokens(KEYS)
        deps = Dependencies(
            replica=replica or f"alone-{next(self.numbers)}",
            is_sole=not replica,
            store=self.store,
            writes=GroupCommit(self.store.group_writer),
            blobs=self.blobs,
            clock=lambda: self.now,
            is_real_time=self.is_real_time,
            tokens=self.tokens,
            owner_key=OWNER_KEY,
            users=Users(OWNER_KEY),
            revocations=Revocations(OWNER_KEY),
            sampling_key=b"s" * 32,
            new_id=lambda: f"{next(self.numbers):032x}",
            observer=self.observer,
            compute=ComputeThread(),
            closing=ComputeThread(name="closing"),
            ack_wait_s=self.ack_wait_s,
            load=lambda: self.load,
        )
        return Coordinator(deps)

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def create_population(
        self, weights: NDArray[np.float32] | None = None, anchor: NDArray[np.int32] | None = None
    ) -> None:
        """Create the population, with these weights as version 0 and this anchor text."""
        words = [f"word{number}" for number in range(8)]
        vocabulary = build_vocabulary(words, [0.125] * 8, oov=0.1, eos=0.1)
        start = np.zeros(LAYOUT.size, np.float32) if weights is None else weights
        checkpoint = Checkpoint(CONFIG, vocabulary, start, anchor=anchor)
        await self.coordinator.populations.create(POPULATION, checkpoint.to_bytes(), audit=AUDIT)

    async def create_other_population(self, name: PopulationName) -> None:
        """Create a second population with weights of its own."""
        vocabulary = build_vocabulary([f"wort{number}" for number in range(8)], [0.125] * 8, oov=0.1, eos=0.1)
        start = np.linspace(-1.0, 1.0, LAYOUT.size, dtype=np.float32)
        await self.coordinator.populations.create(
            name, Checkpoint(CONFIG, vocabulary, start).to_bytes(), audit=AUDIT
        )

    async def task(self, name: str = "t", **tables: str) -> TaskSpec:
        """Create a task from tables of TOML lines; its first round is open when this returns."""
        spec = task_spec(name, **tables)
        await self.coordinator.tasks.create(spec, audit=AUDIT)
        await self.coordinator.tick()
        return spec

    async def enrol(self, tier: int = 0, tags: tuple[str, ...] = ()) -> DeviceIdentity:
        request = EnrolRequest(
            protocol=1, population=POPULATION, app_build=5, locale="en-US", tier=tier, tags=tags
        )
        enrolled = await self.coordinator.enrolments.enrol(request, None)
        return DeviceIdentity(
            enrolled.device,
            POPULATION,
            is_described=True,
            tier=enrolled.tier,
            tags=enrolled.tags,
            last_contributed_at=enrolled.last_contributed_at,
        )

    async def forget(self, identity: DeviceIdentity) -> int:
        """Erase the device; return how many devices were deleted."""
        scope = await self.coordinator.erasure.targets(identity)
        return (await self.coordinator.erasure.forget(scope.devices)).devices

    async def enrol_proven(self) -> DeviceIdentity:
        """Add a device that has reported before, was seen just now, and may contribute again."""
        device, contributed_at = DeviceId(f"{next(self.numbers):032x}"), self.now - timedelta(days=1)
        await add_device(
            self.store,
            DeviceRecord(
                id=device,
                population=POPULATION,
                user_digest=None,
                app_build=5,
                locale="en-US",
                enrolled_at=self.now - timedelta(days=30),
                last_seen_at=self.now,
                last_contributed_at=contributed_at,
            ),
        )
        return DeviceIdentity(device, POPULATION, is_described=True, last_contributed_at=contributed_at)

    async def check_in(self, identity: DeviceIdentity, examples: int = 10) -> Assignment | Refusal:
        can = Capabilities(codecs=get_args(CodecName))
        message = CheckIn(protocol=1, app_build=5, locale="en-US", examples=examples, capabilities=can)
        return await self.coordinator.check_ins.check_in(identity, message)

    async def assigned(self, identity: DeviceIdentity) -> AssignmentClaims:
        answer = await self.check_in(identity)
        assert isinstance(answer, Assignment), answer
        return self.claims(answer)

    def claims(self, assignment: Assignment) -> AssignmentClaims:
        return self.tokens.read(assignment.token, self.now)

    async def model(self, version: int) -> NDArray[np.float32]:
        """Return the weights that phones train from."""
        return decode_weights(
            (await self.coordinator.models.training_model(POPULATION, version)).body, LAYOUT
        )


def task_spec(name: str = "t", **tables: str) -> TaskSpec:
    tables = {
        "round": "goal = 4",
        "codec": 'codec = "float32"',
        "optimizer": 'name = "fedavg"',
        # Whole numbers are easy to add up, and longer than what such a model learns.
        "aggregation": "clip_norm_ratio = 0.0\nmax_norm_ratio = 0.0",
    } | tables
    text = f'[task]\nname = "{name}"\npopulation = "{POPULATION}"\n'
    return parse_task(text + "".join(f"[{table}]\n{lines}\n" for table, lines in tables.items()))


def report(
    delta: NDArray[np.float32],
    examples: int = 1,
    spec: CodecSpec | None = None,
    *,
    of: AssignmentClaims | None = None,
) -> Report:
    """Return a report of this delta; with ``of``, as this device would send it.

    Two honest phones never send the same numbers, and what repeats another's makes no flush larger. So a
    device's first value other than zero is shorter by a few parts in four million, which no download of the
    model shows.
    """
    if of is not None:
        delta = delta.copy()
        delta[np.flatnonzero(delta)[:1]] *= device_factor(of)
    container = encode(delta, LAYOUT, spec or Float32Spec(), seed=0)
    return Report(delta=container, examples=examples)


def device_factor(of: AssignmentClaims) -> np.float32:
    """Return a factor just below 1 that no other device has."""
    return np.float32(1.0 - (int(of.device, 16) % 4_096 + 1) * 2.0**-22)


def constant(value: float) -> NDArray[np.float32]:
    """Return a delta that is ``value`` everywhere."""
    return np.full(LAYOUT.size, value, np.float32)
