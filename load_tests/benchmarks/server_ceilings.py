"""What the machine gives at most, measured beside the server: see ``bare_server`` for its handlers."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.server_rig import CalledProcess
from keyflock_load_tests.cores import Cores, starting_on
from keyflock_models.network.config import ModelConfig

_START_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class BareServer:
    """The two handlers of one process."""

    #: Answers at once.
    answering: CalledProcess
    #: Decodes, judges and adds.
    summing: CalledProcess


@contextmanager
def bare_server(
    folder: Path, cores: Cores, *, answer: bytes, model: bytes, config: ModelConfig, norm: float
) -> Iterator[BareServer]:
    """Run the bare handlers on the server's core for as long as the block lasts."""
    folder.mkdir(parents=True)
    (folder / "answer").write_bytes(answer)
    (folder / "model").write_bytes(model)
    (folder / "layout.json").write_text(json.dumps({"config": config.to_dict(), "norm": norm}))
    binder = [sys.executable, "-m", "keyflock_client_sim.server_control.dies_with_parent", str(os.getpid())]
    with starting_on(cores.server):
        process = subprocess.Popen([*binder, sys.executable, "-m", "benchmarks.bare_server", str(folder)])
    try:
        ports = _await_ports(process, folder / "ports")
        yield BareServer(*(CalledProcess("127.0.0.1", port, (process.pid,)) for port in ports))
    finally:
        process.kill()
        process.wait()


def _await_ports(process: "subprocess.Popen[bytes]", file: Path) -> list[int]:
    give_up_at = time.monotonic() + _START_TIMEOUT_S
    while not file.exists():
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise RuntimeError("the bare handlers did not start")
        time.sleep(0.02)
    ports: list[int] = json.loads(file.read_text(encoding="utf-8"))
    return ports


def dense_add_ms(size: int, repeats: int = 101) -> float:
    """Return the median time of adding one dense float32 vector to another."""
    running, delta = np.zeros(size, np.float32), np.ones(size, np.float32)
    return 1e3 * statistics.median(_seconds_of_add(running, delta) for _ in range(repeats))


def _seconds_of_add(running: np.ndarray, delta: np.ndarray) -> float:
    began_s = time.perf_counter()
    np.add(running, delta, out=running)
    return time.perf_counter() - began_s


def syncs_per_s(folder: Path, repeats: int = 200) -> float:
    """Return how often a second this folder's disk takes 4 KB durably, one after the other."""
    file = folder / "fsync-probe"
    with file.open("wb", buffering=0) as opened:
        began_s = time.perf_counter()
        for _ in range(repeats):
            opened.write(bytes(4_096))
            os.fdatasync(opened.fileno())
        took_s = time.perf_counter() - began_s
    file.unlink()
    return repeats / took_s
