"""A server as a process of its own on its parent's clock, to measure its memory and CPU time alone.

    python -m benchmarks.day_server DATA_FOLDER SEED

Frames on standard input and output, each with its length in front of it. A command has the time and a
request, or none: then it is a tick. Between commands the process does nothing, so its CPU time over a
command, all its threads included, is what the command costs. It ends with its input.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_server.bootstrap import build_socketless_server
from keyflock_server.large_blocks import map_large_blocks
from keyflock_server.protocol.calls import Request, Response
from keyflock_server.telemetry.logs import configure_logs

T = TypeVar("T")
LENGTH_BYTES: Final = 4
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class ServerCommand(msgspec.Struct, array_like=True):
    """A request to handle, or a tick."""

    now_s: float
    #: None for a tick.
    request: Request | None


class ServerReply(msgspec.Struct, array_like=True):
    """The response, and what it cost."""

    #: None after a tick.
    response: Response | None
    #: CPU seconds of all threads.
    cpu_s: float
    #: Resident memory afterwards, in bytes.
    rss_bytes: int
    #: The token for the operators' calls.
    admin_token: str


def frame(message: msgspec.Struct) -> bytes:
    """Return a message with its length in front of it."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def rss_bytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


async def serve(folder: Path, seed: int, commands: BinaryIO, replies: BinaryIO) -> None:
    """Answer commands until they end; nothing else is on this event loop, so it may block on its input."""
    clock = VirtualClock()
    server = build_socketless_server(folder, clock, seed=seed)
    try:
        while head := commands.read(LENGTH_BYTES):
            command = msgspec.msgpack.decode(commands.read(int.from_bytes(head, "big")), type=ServerCommand)
            clock.advance_to(command.now_s)
            began_s = time.process_time()
            response = None
            if command.request is None:
                await server.tick()
            else:
                response = await server.send(command.request)
            cpu_s = time.process_time() - began_s
            replies.write(frame(ServerReply(response, cpu_s, rss_bytes(), server.admin_token)))
            replies.flush()
    finally:
        await server.close()


if __name__ == "__main__":
    with Path(os.devnull).open("w", encoding="utf-8") as dev_null:
        configure_logs("json", "INFO", dev_null)  # lines are written as any server's are, and dropped
        map_large_blocks()  # as ``keyflock serve`` does
        asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer, sys.stdout.buffer))
