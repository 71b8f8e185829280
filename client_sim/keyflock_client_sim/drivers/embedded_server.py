"""A real server runs inside this process, on a virtual clock, with one population and one task."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from keyflock_client_sim.drivers.virtual_clock import VirtualClock
from keyflock_server.protocol.operator.rounds import RoundView
from keyflock_server.protocol.operator_client import OperatorClient
from keyflock_server.simulation import SocketlessServer, build_socketless_server


@asynccontextmanager
async def embedded_server(
    data_dir: Path,
    clock: VirtualClock,
    *,
    population: str,
    checkpoint: bytes,
    task: str,
    seed: int | None = None,
) -> AsyncIterator[SocketlessServer]:
    """Run a server for as long as the block lasts.

    Args:
        data_dir: The server's data folder; it must be new.
        clock: The clock that the driver moves.
        population: The population to create, with the checkpoint as its version 0.
        checkpoint: A safetensors file, vocabulary inside.
        task: The task as TOML.
        seed: Decides the server's ids and secrets, and so which phones it samples; None: they are random,
            and the data folder can be used again.
    Raises:
        OperatorError: the checkpoint or the task is refused.
    """
    server = build_socketless_server(data_dir, clock, seed=seed)
    try:
        operator = OperatorClient(server, server.admin_token)
        await operator.create_population(population, checkpoint, reason="A simulation begins.")
        await operator.create_task(task, reason="A simulation begins.")
        yield server
    finally:
        await server.close()


async def fetch_rounds(server: SocketlessServer, task: str) -> list[RoundView]:
    """Return all rounds of a task, as the server reports them."""
    return await OperatorClient(server, server.admin_token).rounds(task)
