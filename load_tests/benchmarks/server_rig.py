"""A keyflock server on a core of its own, with a fleet enrolled, and a generator on another core.

Whatever is measured of a server is measured on this rig: calls a second, and the server's CPU time a call,
which a busy machine distorts least.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_load_tests.books import StoredCounts, read_counts
from keyflock_load_tests.cloned_fleet import DATABASE_FILE, EnrolledPhone, clone_phone
from keyflock_load_tests.cores import Cores, cpu_s, starting_on
from keyflock_load_tests.generator_process import GeneratorProcess
from keyflock_load_tests.phone_requests import check_ins, enrolment
from keyflock_load_tests.traffic import Requests, TrafficPlan, TrafficRecord, TrafficScript
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.messages import Enrolment
from keyflock_server.rounds.round import Phase

_ROUNDS_OPEN_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class PopulationSetup:
    """A population to create: its model, its tasks, and how many phones it has."""

    name: str
    checkpoint: bytes
    #: TOML; each names the population.
    tasks: tuple[str, ...]
    phones: int


@dataclass(slots=True)
class EnrolledFleet:
    """The phones of a population, which come in turn."""

    tokens: list[bytes]
    #: The token of one more phone, which never comes in turn.
    spare: bytes
    _next: int = 0

    def take(self, count: int) -> list[bytes]:
        """Return the tokens of the phones that come next; after the last comes the first again."""
        taken = [self.tokens[(self._next + at) % len(self.tokens)] for at in range(count)]
        self._next = (self._next + count) % len(self.tokens)
        return taken

    def give_back(self, count: int) -> None:
        """Let the phones that were taken last and have not come be the next ones again."""
        self._next = (self._next - count) % len(self.tokens)


class CpuMeter:
    """Measures the CPU time of processes while a block runs.

    Args:
        pids: Returns the processes; those that come during the block count from their start.
    """

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self.spent_s = 0.0

    def __enter__(self) -> Self:
        """Begin."""
        self.spent_s = -sum(map(cpu_s, self._pids()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self.spent_s += sum(map(cpu_s, self._pids()))


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run of the generator, and what it took of the server."""

    record: TrafficRecord
    server_cpu_s: float

    def cpu_ms(self, name: str) -> float:
        """Return the server's CPU time for each answered call of this name, in milliseconds."""
        return 1e3 * self.server_cpu_s / max(1, self.record.answered(name))


@dataclass(frozen=True, slots=True)
class CalledProcess:
    """A process that takes calls."""

    host: str
    port: int
    pids: tuple[int, ...]

    @classmethod
    def of(cls, url: str, *pids: int) -> Self:
        """Return the target at this URL."""
        parts = urlsplit(url)
        return cls(parts.hostname or "127.0.0.1", parts.port or 80, pids)


def play(
    generator: GeneratorProcess,
    target: CalledProcess,
    script: TrafficScript,
    **plan: Any,  # noqa: ANN401 - the plan's fields
) -> MeasuredRun:
    """Run a plan against a target; ``plan`` are further fields of `TrafficPlan`."""
    meter = CpuMeter(lambda: target.pids)
    record = generator.run(
        TrafficPlan(host=target.host, port=target.port, script=script, **plan), while_running=meter
    )
    return MeasuredRun(record, meter.spent_s)


@dataclass(slots=True)
class ServerRig:
    """A running server with its fleets."""

    server: ServerProcess
    generator: GeneratorProcess
    cores: Cores
    fleets: dict[str, EnrolledFleet]
    target: CalledProcess = field(init=False)

    def __post_init__(self) -> None:
        """Set the target."""
        self.target = CalledProcess.of(self.server.sdk_url, self.server.pid)

    def play(self, script: TrafficScript, **plan: Any) -> MeasuredRun:  # noqa: ANN401 - the plan's fields
        """Run a plan against the server."""
        return play(self.generator, self.target, script, **plan)

    def await_rounds(self) -> None:
        """Return once a round of each population is open: a server opens them soon after its start."""
        give_up_at = time.monotonic() + _ROUNDS_OPEN_WITHIN_S
        for name, fleet in self.fleets.items():
            script = Requests(calls.CHECK_IN.name, check_ins([fleet.spare]), keeps_answers=True)
            while b"round_full" in self.play(script, visits=1, duration_s=30.0).record.books[0]:
                if time.monotonic() > give_up_at:
                    raise RuntimeError(f"no round of {name} opens")
                time.sleep(0.1)

    def stored(self, task: str) -> StoredCounts:
        """Return what the server's database says of a task's reports and rounds."""
        database = self.server.data_dir / DATABASE_FILE
        return asyncio.run(read_counts(f"sqlite+aiosqlite:///{database}", task))

    def closed_rounds(self, task: str) -> int:
        """Return how many rounds of a task have closed."""
        return self.stored(task).phases.get(Phase.CLOSED, 0)


@contextmanager
def running_rig(
    folder: Path,
    populations: Sequence[PopulationSetup],
    generator: GeneratorProcess,
    cores: Cores,
    *,
    command: Sequence[str] | None = None,
) -> Iterator[ServerRig]:
    """Set a server up, and run it pinned to its core for as long as the block lasts.

    Args:
        folder: For the server's data; must be new.
        populations: What is created in it.
        generator: Sends the calls.
        cores: Where the server runs.
        command: Another release of the server in this one's place.
    """
    fleets = set_up(folder, populations, generator, command=command)
    with ExitStack() as stack:
        with starting_on(cores.server):
            server = stack.enter_context(running_server(folder, command=command))
        rig = ServerRig(server, generator, cores, fleets)
        rig.await_rounds()
        yield rig


def set_up(
    folder: Path,
    populations: Sequence[PopulationSetup],
    generator: GeneratorProcess,
    *,
    command: Sequence[str] | None = None,
) -> dict[str, EnrolledFleet]:
    """Create populations, tasks and phones in a new data folder, and return the fleets by population."""
    with running_server(folder, command=command) as server:
        asyncio.run(create(server.admin_url, server.admin_token(), populations))
        target = CalledProcess.of(server.sdk_url, server.pid)
        phones = {one.name: enrol(generator, target, one.name) for one in populations if one.phones}
    return {
        one.name: EnrolledFleet(
            clone_phone(folder, phones[one.name], one.phones), phones[one.name].token.encode("ascii")
        )
        for one in populations
        if one.phones
    }


async def create(admin_url: str, token: str, populations: Sequence[PopulationSetup]) -> None:
    """Create populations and their tasks."""
    async with operator_client(admin_url, token) as admin:
        for one in populations:
            await admin.create_population(one.name, one.checkpoint, reason="A benchmark.")
            for task in one.tasks:
                await admin.create_task(task, reason="A benchmark.")


def enrol(generator: GeneratorProcess, target: CalledProcess, population: str) -> EnrolledPhone:
    """Enrol a phone over HTTP."""
    script = Requests(calls.ENROL.name, [enrolment(population)], keeps_answers=True)
    run = play(generator, target, script, visits=1, duration_s=30.0, connections=1)
    enrolled = wire.decode(run.record.books[0], Enrolment)
    return EnrolledPhone(enrolled.device, enrolled.token)


@contextmanager
def on_cores(cores: Cores | None = None) -> Iterator[tuple[GeneratorProcess, Cores]]:
    """Run a generator on its core."""
    chosen = cores or Cores.chosen()
    with GeneratorProcess(chosen.generator, may_spin=not chosen.is_shared) as generator:
        yield generator, chosen
