"""A day of phones against a server process, in virtual time: what came, and what it took the server."""

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
from tests.benchmarks.day_server import LENGTH_BYTES, Ask, Done, frame

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.events import Trained
from keyflock_client_sim.device.notices import Acked, Assigned, TurnedAway
from keyflock_client_sim.drivers.books import Happening
from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import VirtualTimeFleet
from keyflock_client_sim.fleet.population import make
from keyflock_client_sim.fleet.profiles import FleetProfile
from keyflock_server.http.routes import Routes
from keyflock_server.protocol import calls
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.operator import Rounds, RoundView

ROOT: Final = Path(__file__).resolve().parents[2]
POPULATION: Final = PopulationName("en-US")
TASK: Final = "day"
TICK: Final = "tick"
HOUR_S: Final = 3_600.0
#: Virtual time between two samples of the server's memory.
SAMPLE_S: Final = 900.0
#: Check-ins that bring work, and those that bring none; all else is called as in ``protocol.calls``.
ASSIGNED, TURNED_AWAY = "check-in with work", "check-in without"


@dataclass(slots=True)
class Day:
    """What was seen."""

    #: By call, or ``tick``: virtual seconds, and the server's CPU seconds.
    costs: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    #: Every `SAMPLE_S`: virtual seconds, and resident bytes.
    memory: list[tuple[float, int]] = field(default_factory=list)
    #: Virtual seconds of check-ins with and without work, and of acknowledged reports.
    assigned_at: list[float] = field(default_factory=list)
    turned_away_at: list[float] = field(default_factory=list)
    acked_at: list[float] = field(default_factory=list)
    rounds: list[RoundView] = field(default_factory=list)

    def watch(self, happening: Happening) -> None:
        """See ``Watch``."""
        match happening.notice:
            case Assigned():
                self.assigned_at.append(happening.at_s)
            case TurnedAway():
                self.turned_away_at.append(happening.at_s)
            case Acked():
                self.acked_at.append(happening.at_s)
            case _:
                pass


class ServerProcess:
    """``SteppedServer`` in a process of its own; keeps the account of what each call takes.

    Args:
        process: `day_server`, just started.
        clock: Shared with the driver.
        day: Where the account is kept.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", clock: VirtualClock, day: Day) -> None:
        self._process = process
        self._clock = clock
        self._day = day
        self._routes = Routes(calls.CALLS)
        self._sampled_at_s = -SAMPLE_S
        self._admin_token = ""

    async def send(self, request: Request) -> Response:
        """The server's answer to a phone."""
        done = self._ask(request)
        assert done.response is not None
        call, _ = self._routes.match(request.method, request.path)
        name = _answered(done.response) if call is calls.CHECK_IN else call.name
        self._day.costs[name].append((self._clock.now_s, done.cpu_s))
        return done.response

    async def tick(self) -> None:
        """Whatever is due."""
        done = self._ask(None)
        now_s = self._clock.now_s
        self._day.costs[TICK].append((now_s, done.cpu_s))
        if now_s >= self._sampled_at_s + SAMPLE_S:
            self._sampled_at_s = now_s
            self._day.memory.append((now_s, done.rss_bytes))

    def operate(self, method: str, path: str, body: bytes = b"", media_type: str = "") -> bytes:
        """An operator's call, which is in no account."""
        token = self._admin_token or self._ask(None).admin_token
        self._admin_token = token
        headers = {"authorization": f"Bearer {token}", "content-type": media_type}
        done = self._ask(Request(method, f"/admin/v1/{path}", headers, body))
        if done.response is None or done.response.status >= 400:
            raise RuntimeError(f"{method} {path}: {done.response}")
        return done.response.body

    def _ask(self, request: Request | None) -> Done:
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None
        assert answers is not None
        # Blocks the fleet, which has nothing else to do: while the server works, nobody takes its caches.
        asks.write(frame(Ask(self._clock.now_s, request)))
        asks.flush()
        head = answers.read(LENGTH_BYTES)
        if not head:
            raise RuntimeError(f"the server process ended with exit code {self._process.wait()}")
        return msgspec.msgpack.decode(answers.read(int.from_bytes(head, "big")), type=Done)


class _Answer(msgspec.Struct):
    kind: str = ""


def _answered(response: Response) -> str:
    answer = msgspec.msgpack.decode(response.body, type=_Answer)
    return ASSIGNED if answer.kind == "assignment" else TURNED_AWAY


@contextlib.contextmanager
def server_process(folder: Path, clock: VirtualClock, day: Day) -> Iterator[ServerProcess]:
    """A server over a new data folder, for as long as the block lasts."""
    command = [sys.executable, "-m", "tests.benchmarks.day_server", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield ServerProcess(process, clock, day)
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With its input the process has no more to do."""
    with contextlib.suppress(OSError):
        process.communicate(timeout=60.0)
    process.kill()
    process.wait()


class RecordedTrainer:
    """Deltas that were trained before, so that phones cost nothing.

    Args:
        examples: Sequences on each phone.
        deltas: As containers; each report has one of them.
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


async def live(
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
) -> Day:
    """So many phones for so many hours.

    Args:
        folder: The server's data; must be new.
        phones: How many.
        hours: Of virtual time, from midnight.
        profile: What phones are like.
        checkpoint: Version 0 of `POPULATION`.
        task: As TOML, named `TASK`.
        deltas: What phones report.
        tick_s: Virtual time between two passes of the server.
        seed: Of the fleet.
    """
    rng = random.Random(f"examples:{seed}")
    examples = {f"phone-{number}": 8 + int(rng.lognormvariate(4.0, 0.8)) for number in range(phones)}
    fleet = make(examples, population=POPULATION, profile=profile, seed=seed)
    clock, day = VirtualClock(), Day()
    with server_process(folder, clock, day) as server:
        server.operate("PUT", f"populations/{POPULATION}", checkpoint, "application/octet-stream")
        server.operate("POST", "tasks", task.encode(), "application/toml")
        driver = VirtualTimeFleet(
            fleet, server, RecordedTrainer(examples, deltas), clock, watch=day.watch, tick_s=tick_s
        )
        await driver.run(limit_s=hours * HOUR_S)
        views = server.operate("GET", f"tasks/{TASK}/rounds")
        day.rounds = msgspec.json.decode(views, type=Rounds).rounds
    return day
