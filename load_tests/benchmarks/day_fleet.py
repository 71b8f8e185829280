"""A day of phones against a server process, in virtual time: the calls, and what they cost the server."""

import contextlib
import hashlib
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.day_server import LENGTH_BYTES, ServerCommand, ServerReply, frame
from keyflock_client_sim.device.device_events import AssignmentReceived, CheckInRefused, ReportAcked
from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.drivers.fleet_stats import FleetEvent
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make_fleet
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_server.http.routes import Routes
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator.pages import MAX_LIMIT
from keyflock_server.protocol.operator.rounds import RoundList, RoundView
from keyflock_server.rounds.round import Phase

ROOT: Final = Path(__file__).resolve().parents[2]
POPULATION: Final = PopulationName("en-US")
TASK: Final = "day"
TICK: Final = "tick"
HOUR_S: Final = 3_600.0
#: Virtual time between two samples of the server's memory.
SAMPLE_S: Final = 900.0
#: Names of check-ins with and without an assignment; other calls are named as in ``protocol.calls``.
ASSIGNED, TURNED_AWAY = "check-in with work", "check-in without"


@dataclass(slots=True)
class DayRecord:
    """What happened in a day."""

    #: By call or ``tick``: virtual seconds and the server's CPU seconds.
    costs: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    #: Every `SAMPLE_S`: virtual seconds, and resident bytes.
    memory: list[tuple[float, int]] = field(default_factory=list)
    #: Virtual seconds of check-ins with and without work, and of acknowledged reports.
    assigned_at: list[float] = field(default_factory=list)
    turned_away_at: list[float] = field(default_factory=list)
    acked_at: list[float] = field(default_factory=list)
    rounds: list[RoundView] = field(default_factory=list)

    def watch(self, happening: FleetEvent) -> None:
        """Record a device event; see ``Watch``."""
        match happening.event:
            case AssignmentReceived():
                self.assigned_at.append(happening.at_s)
            case CheckInRefused():
                self.turned_away_at.append(happening.at_s)
            case ReportAcked():
                self.acked_at.append(happening.at_s)
            case _:
                pass


class MeasuredServer:
    """An ``InProcessServer`` in a process of its own; it records what each call costs.

    Args:
        process: A `day_server` that has just started.
        clock: The clock of the driver.
        day: Receives the costs.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", clock: VirtualClock, day: DayRecord) -> None:
        self._process = process
        self._clock = clock
        self._day = day
        self._routes = Routes(calls.CALLS)
        self._sampled_at_s = -SAMPLE_S
        self._admin_token = ""

    async def send(self, request: Request) -> Response:
        """Return the server's response to a phone."""
        reply = self._command(request)
        assert reply.response is not None
        call, _ = self._routes.match(request.method, request.path)
        name = _check_in_kind(reply.response) if call is calls.CHECK_IN else call.name
        self._day.costs[name].append((self._clock.now_s, reply.cpu_s))
        return reply.response

    async def tick(self) -> None:
        """Let the server do what is due."""
        reply = self._command(None)
        now_s = self._clock.now_s
        self._day.costs[TICK].append((now_s, reply.cpu_s))
        if now_s >= self._sampled_at_s + SAMPLE_S:
            self._sampled_at_s = now_s
            self._day.memory.append((now_s, reply.rss_bytes))

    def operate(self, method: str, path: str, body: bytes = b"", media_type: str = "") -> bytes:
        """Make an operator's call, whose cost is not recorded."""
        token = self._admin_token or self._command(None).admin_token
        self._admin_token = token
        headers = {"authorization": f"Bearer {token}", "content-type": media_type}
        reply = self._command(Request(method, f"/admin/v1/{path}", headers, body))
        if reply.response is None or reply.response.status >= 400:
            raise RuntimeError(f"{method} {path}: {reply.response}")
        return reply.response.body

    def _command(self, request: Request | None) -> ServerReply:
        commands, replies = self._process.stdin, self._process.stdout
        assert commands is not None
        assert replies is not None
        # This blocks the fleet on purpose: while the server works, no other process evicts its CPU caches.
        commands.write(frame(ServerCommand(self._clock.now_s, request)))
        commands.flush()
        head = replies.read(LENGTH_BYTES)
        if not head:
            raise RuntimeError(f"the server process ended with exit code {self._process.wait()}")
        return msgspec.msgpack.decode(replies.read(int.from_bytes(head, "big")), type=ServerReply)


class _Answer(msgspec.Struct):
    kind: str = ""


def _check_in_kind(response: Response) -> str:
    answer = msgspec.msgpack.decode(response.body, type=_Answer)
    return ASSIGNED if answer.kind == "assignment" else TURNED_AWAY


@contextlib.contextmanager
def server_process(folder: Path, seed: int, clock: VirtualClock, day: DayRecord) -> Iterator[MeasuredServer]:
    """Run a server over a new data folder while the block runs."""
    command = [sys.executable, "-m", "benchmarks.day_server", str(folder), str(seed)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield MeasuredServer(process, clock, day)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Close the process's input, at which it ends, and make sure that it has ended."""
    with contextlib.suppress(OSError):
        process.communicate(timeout=60.0)
    process.kill()
    process.wait()


class RecordedTrainer:
    """A trainer that returns deltas that were trained before, so that phones cost nothing.

    Args:
        examples: Number of sequences on each phone.
        deltas: The containers; each report has one of them.
    """

    def __init__(self, examples: Mapping[str, int], deltas: Sequence[bytes]) -> None:
        self._examples = examples
        self._deltas = deltas

    def store(self, digest: bytes, body: bytes) -> None:
        """See ``Trainer``."""

    async def train(self, phone: str, work: Train) -> Trained:
        """See ``Trainer``."""
        which = hashlib.sha256(f"{phone}:{work.assignment}".encode()).digest()[0] % len(self._deltas)
        return Trained(delta=self._deltas[which], examples=min(self._examples[phone], work.plan.max_examples))


async def run_day(
    folder: Path,
    *,
    phones: int,
    hours: float,
    profile: FleetProfile,
    checkpoint: bytes,
    task: str,
    deltas: Sequence[bytes],
    tick_s: float = 5.0,
    seed: int = 0,
) -> DayRecord:
    """Run phones against a server for some hours of virtual time.

    Args:
        folder: The server's data; must be new.
        phones: Number of phones.
        hours: Duration in virtual time, from midnight.
        profile: Properties of the phones.
        checkpoint: Version 0 of `POPULATION`.
        task: The task as TOML, named `TASK`.
        deltas: The deltas that phones report.
        tick_s: Virtual time between two passes of the server.
        seed: Decides the fleet, and whom the server samples; not what a call costs.
    Raises:
        RuntimeError: a round waits for an operator, so the phones had no work.
    """
    rng = random.Random(f"examples:{seed}")
    examples = {f"phone-{number}": 8 + int(rng.lognormvariate(4.0, 0.8)) for number in range(phones)}
    fleet = make_fleet(examples, population=POPULATION, profile=profile, seed=seed)
    clock, day = VirtualClock(), DayRecord()
    with server_process(folder, seed, clock, day) as server:
        server.operate(
            "PUT", f"populations/{POPULATION}?reason=benchmark", checkpoint, "application/octet-stream"
        )
        server.operate("POST", "tasks?reason=benchmark", task.encode(), "application/toml")
        driver = VirtualTimeFleet(
            fleet, server, RecordedTrainer(examples, deltas), clock, listener=day.watch, tick_s=tick_s
        )
        await driver.run(limit_s=hours * HOUR_S)
        views = server.operate("GET", f"rounds?limit={MAX_LIMIT}&task={TASK}")
        day.rounds = msgspec.json.decode(views, type=RoundList).items[::-1]
    if any(round_.phase == Phase.HELD for round_ in day.rounds):
        raise RuntimeError("a round is held: its task was paused, so this was no day of work")
    return day
