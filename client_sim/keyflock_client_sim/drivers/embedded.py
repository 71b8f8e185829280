"""A real server inside this process, on a virtual clock, with one population and one task.

The server's package is no dependency of the phones: it is found by name when a simulation asks for it.
"""

import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_client_sim.drivers.virtual_time import SteppedServer
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.operator import Rounds, RoundView

FACTORY: Final = "keyflock_server.bootstrap:embedded_exchange"


class EmbeddedServer(SteppedServer, Protocol):
    """What the factory makes; answers operators' calls under ``/admin/`` too."""

    admin_token: str

    async def close(self) -> None:
        """Flushes and stops."""
        ...


class EmbeddedServerError(RuntimeError):
    """The server cannot run this task; the message is one line for whoever wrote it."""


@asynccontextmanager
async def embedded_server(
    data_dir: Path, clock: VirtualClock, *, population: str, checkpoint: bytes, task: str
) -> AsyncIterator[EmbeddedServer]:
    """A server for as long as the block lasts.

    Args:
        data_dir: Where it keeps its data; must be new.
        clock: Shared with the driver.
        population: Made with the checkpoint as its version 0.
        checkpoint: safetensors, vocabulary inside.
        task: As TOML.
    Raises:
        EmbeddedServerError: the checkpoint or the task is refused.
    """
    factory: Callable[[Path, VirtualClock], EmbeddedServer] = pkgutil.resolve_name(FACTORY)
    server = factory(data_dir, clock)
    try:
        await _operate(
            server, "PUT", f"populations/{population}", checkpoint, media_type="application/octet-stream"
        )
        await _operate(server, "POST", "tasks", task.encode(), media_type="application/toml")
        yield server
    finally:
        await server.close()


async def rounds(server: EmbeddedServer, task: str) -> list[RoundView]:
    """All rounds of a task, as the server's books have them."""
    return msgspec.json.decode(await _operate(server, "GET", f"tasks/{task}/rounds"), type=Rounds).rounds


async def _operate(
    server: EmbeddedServer, method: str, path: str, body: bytes = b"", *, media_type: str = ""
) -> bytes:
    headers = {"authorization": f"Bearer {server.admin_token}"}
    if media_type:
        headers["content-type"] = media_type
    response = await server.send(Request(method, f"/admin/v1/{path}", headers, body))
    if response.status >= 400:
        problem = msgspec.json.decode(response.body, type=_Problem)
        raise EmbeddedServerError(f"{problem.code}: {problem.detail}")
    return response.body


class _Problem(msgspec.Struct):
    code: str
    detail: str
