"""A server as a process of its own, on the clock of whoever started it: what it uses is the server's alone.

    python -m tests.benchmarks.day_server DATA_FOLDER

Frames on standard input and output, each with its length in front of it. An ask says what time it is and
carries a request, or none: then it is a tick. Between asks the process does nothing, so its CPU time over an
ask, all its threads included, is what the ask costs. It ends with its input.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_server.bootstrap import embedded_exchange
from keyflock_server.large_blocks import keep_large_blocks_apart
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.telemetry.logs import configure_logs

T = TypeVar("T")
LENGTH_BYTES: Final = 4
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Ask(msgspec.Struct, array_like=True):
    """What is to be done."""

    now_s: float
    #: None: a tick.
    request: Request | None


class Done(msgspec.Struct, array_like=True):
    """What was done, and what it took."""

    #: Of a tick, none.
    response: Response | None
    #: Of all threads.
    cpu_s: float
    #: Resident memory afterwards.
    rss_bytes: int
    #: Opens the operators' calls.
    admin_token: str


def frame(message: msgspec.Struct) -> bytes:
    """A message with its length in front of it."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


async def serve(folder: Path, asks: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the asks end; nobody else is on this event loop, so it may wait for them."""
    clock = VirtualClock()
    server = embedded_exchange(folder, clock)
    try:
        while head := asks.read(LENGTH_BYTES):
            ask = msgspec.msgpack.decode(asks.read(int.from_bytes(head, "big")), type=Ask)
            clock.advance_to(ask.now_s)
            began_s = time.process_time()
            response = None
            if ask.request is None:
                await server.tick()
            else:
                response = await server.send(ask.request)
            cpu_s = time.process_time() - began_s
            answers.write(frame(Done(response, cpu_s, rss_bytes(), server.admin_token)))
            answers.flush()
    finally:
        await server.close()


if __name__ == "__main__":
    with Path(os.devnull).open("w", encoding="utf-8") as nobody:
        configure_logs(
            "json", "INFO", nobody
        )  # what it logs is written like any server's, but kept by nobody
        keep_large_blocks_apart()  # as ``keyflock serve`` does
        asyncio.run(serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer))
