"""What the operator plane costs: audited changes of a task, and check-ins over TLS beside plain ones.

    make bench-operator                           about two minutes; writes the section in BENCHMARKS.md
    make bench-operator ARGS="--quick"            a few seconds, which writes nothing

Two real server processes over SQLite with full sync, one with TLS on the phones' port, in turn on the same
core; one client on another core with one connection. In each run every kind of call is measured once, and
ratios are medians of the runs' ratios. The last line that is printed is the result as JSON.
"""

import argparse
import asyncio
import itertools
import json
import ssl
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.one_connection import LoopCost, OneConnection, measure_loop, self_signed
from benchmarks.page import Section, table, write
from benchmarks.server_ceilings import syncs_per_s
from benchmarks.server_rig import PopulationSetup, create
from benchmarks.server_tasks import REFUSED, refusing_population
from keyflock_client_sim.server_control.server_process import ServerProcess, running_server
from keyflock_load_tests.cores import Cores, pin_this_process, starting_on
from keyflock_load_tests.payload import fresh_checkpoint
from keyflock_load_tests.phone_requests import check_ins, enrolment
from keyflock_load_tests.raw_http import to_bytes
from keyflock_server.protocol import wire
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.messages import Enrolment
from keyflock_server.storage.sql.store import SqlStore

READ: Final = "a task is read"
CHANGED: Final = "a task is changed, with its audit entry"
KEPT: Final = "check-in, connection kept"
KEPT_TLS: Final = "check-in over TLS, connection kept"
NEW: Final = "check-in, new connection"
NEW_TLS: Final = "check-in over TLS, new connection"


@dataclass(frozen=True, slots=True)
class RunSizes:
    """How often and how long each kind of call is measured."""

    runs: int
    seconds: float


FULL: Final = RunSizes(runs=5, seconds=3.0)
QUICK: Final = RunSizes(runs=2, seconds=0.3)


@dataclass(slots=True)
class OperatorPlaneFigures:
    """What was measured, by the kind of call, one cost a run."""

    runs: dict[str, list[LoopCost]] = field(default_factory=dict)
    syncs_per_s: float = 0.0
    #: Changes that were answered well, and entries that the audit log has of them.
    changes: int = 0
    audited: int = 0

    def per_s(self, kind: str) -> float:
        """Return the median of calls a second."""
        return statistics.median(run.per_s for run in self.runs[kind])

    def cpu_ms(self, kind: str) -> float:
        """Return the median of the server's CPU time a call."""
        return statistics.median(run.cpu_ms for run in self.runs[kind])

    def cpu_ratio(self, kind: str, base: str) -> float:
        """Return the median of the runs' ratios of CPU time."""
        return statistics.median(
            one.cpu_ms / max(other.cpu_ms, 1e-9) for one, other in self._pairs(kind, base)
        )

    def _pairs(self, kind: str, base: str) -> Iterator[tuple[LoopCost, LoopCost]]:
        return zip(self.runs[kind], self.runs[base], strict=True)

    def line(self) -> dict[str, float]:
        """Return the result as one line of JSON."""
        handshakes = [one.cpu_ms - other.cpu_ms for one, other in self._pairs(NEW_TLS, NEW)]
        return {
            "audited_writes_per_s": round(self.per_s(CHANGED), 1),
            "write_cpu_over_read": round(self.cpu_ratio(CHANGED, READ), 2),
            "write_over_syncs": round(self.per_s(CHANGED) / self.syncs_per_s, 3),
            "tls_kept_cpu_ratio": round(self.cpu_ratio(KEPT_TLS, KEPT), 3),
            "tls_new_cpu_ratio": round(self.cpu_ratio(NEW_TLS, NEW), 3),
            "handshake_cpu_ms": round(statistics.median(handshakes), 3),
            "changes": self.changes,
            "audited": self.audited,
        }


def main() -> None:
    """Measure, print the section and the line, and write the section after a full run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short runs, which write nothing")
    sizes = QUICK if parser.parse_args().quick else FULL
    cores = Cores.chosen()
    pin_this_process(cores.generator)
    figures = measure(sizes, cores)
    text = section(figures, sizes, cores)
    print(text)
    if sizes is FULL:
        write(Section("operator", "What the operator plane costs", "make bench-operator", text))
    print(json.dumps(figures.line()))


def measure(sizes: RunSizes, cores: Cores) -> OperatorPlaneFigures:
    """Measure everything."""
    figures = OperatorPlaneFigures()
    with tempfile.TemporaryDirectory(prefix="keyflock-operator-") as name, ExitStack() as stack:
        folder = Path(name)
        figures.syncs_per_s = syncs_per_s(folder)
        certificate, key = self_signed(folder)
        tls = ("--tls-certificate", str(certificate), "--tls-key", str(key))
        trust = ssl.create_default_context(cafile=str(certificate))
        population = refusing_population(fresh_checkpoint("tiny", seed=1).to_bytes(), phones=0)
        with starting_on(cores.server):
            plain = stack.enter_context(running_server(folder / "plain"))
            secured = stack.enter_context(running_server(folder / "tls", options=tls))
        asyncio.run(_set_up((plain, secured), population))
        loops = {
            **_operator_loops(stack, plain, figures),
            **_phone_loops(stack, plain, None, (KEPT, NEW)),
            **_phone_loops(stack, secured, trust, (KEPT_TLS, NEW_TLS)),
        }
        before = asyncio.run(_audit_entries(plain))
        for _ in range(sizes.runs):
            for kind, (call, pid) in loops.items():
                figures.runs.setdefault(kind, []).append(measure_loop(call, pid, sizes.seconds))
        figures.audited = asyncio.run(_audit_entries(plain)) - before
    return figures


async def _set_up(servers: tuple[ServerProcess, ...], population: PopulationSetup) -> None:
    for server in servers:
        await create(server.admin_url, server.admin_token(), [population])


async def _audit_entries(server: ServerProcess) -> int:
    store = SqlStore(f"sqlite+aiosqlite:///{server.data_dir / 'keyflock.sqlite3'}")
    try:
        return (await store.audit.head()).sequence
    finally:
        await store.close()


#: Makes one call, and the process that answers it.
Loop = tuple[Callable[[], None], int]


def _operator_loops(
    stack: ExitStack, server: ServerProcess, figures: OperatorPlaneFigures
) -> dict[str, Loop]:
    connection = stack.enter_context(OneConnection(server.admin_url))
    headers = {"Authorization": f"Bearer {server.admin_token()}"}
    path = f"/admin/v1/tasks/{REFUSED}"
    read = to_bytes(Request("GET", path, headers))
    headers = {**headers, "Content-Type": "application/json"}
    orders = [json.dumps({"goal": goal, "reason": "A benchmark."}).encode() for goal in (9, 8)]
    changes = itertools.cycle([to_bytes(Request("PATCH", path, headers, order)) for order in orders])

    def change() -> None:
        connection.call(next(changes))
        figures.changes += 1

    return {READ: (lambda: _call(connection, read), server.pid), CHANGED: (change, server.pid)}


def _phone_loops(
    stack: ExitStack, server: ServerProcess, trust: ssl.SSLContext | None, kinds: tuple[str, str]
) -> dict[str, Loop]:
    lasting = stack.enter_context(OneConnection(server.sdk_url, trust))
    enrolled = wire.decode(lasting.call(enrolment(REFUSED)), Enrolment)
    check_in = bytes(check_ins([enrolled.token.encode("ascii")])[0])

    def call_anew() -> None:
        with OneConnection(server.sdk_url, trust) as new:
            new.call(check_in)

    return {kinds[0]: (lambda: _call(lasting, check_in), server.pid), kinds[1]: (call_anew, server.pid)}


def _call(connection: OneConnection, request: bytes) -> None:
    connection.call(request)


def section(figures: OperatorPlaneFigures, sizes: RunSizes, cores: Cores) -> str:
    """Return the section of BENCHMARKS.md."""
    bases = {CHANGED: READ, KEPT_TLS: KEPT, NEW_TLS: NEW}
    rows: list[tuple[str, ...]] = [
        (
            kind,
            f"{figures.per_s(kind):,.0f}",
            f"{figures.cpu_ms(kind):.3f}",
            f"{figures.cpu_ratio(kind, bases[kind]):.2f} of: {bases[kind]}" if kind in bases else "",
        )
        for kind in figures.runs
    ]
    line = figures.line()
    head = ("call, one after the other", "calls/s", "server's CPU, ms", "CPU, times")
    return f"""{table(head, rows)}

A full handshake of TLS 1.3 (ECDSA P-256) takes the server {line["handshake_cpu_ms"]} ms of CPU. An audited
change is durable when it is answered: {line["audited_writes_per_s"]:,} a second are
{line["write_over_syncs"]} of the {figures.syncs_per_s:,.0f} syncs a second that this disk takes.
{figures.changes:,} changes were answered, and the audit log has {figures.audited:,} entries of them.
A check-in here is one that is told its assignment again. Medians of {sizes.runs} runs. {cores.describe()}"""


if __name__ == "__main__":
    main()
