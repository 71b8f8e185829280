"""The servers of the drill: one over SQLite, or two replicas over one PostgreSQL."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.recovery.fork_server import ForkServer
from tests.recovery.load_balanced_exchange import LoadBalancedExchange
from tests.recovery.release_drill.fleet_run import FleetOutcome, run_fleet
from tests.recovery.replicas import FAST_SETTINGS, ReplicaSet, ServerReplica

from keyflock_server.data_folder import DATABASE_FILE
from keyflock_server.storage.sql.store import SqlStore


async def drill_sqlite(folder: Path, fork_server: ForkServer) -> FleetOutcome:
    """Run the drill against one server."""
    exchange = LoadBalancedExchange(random.Random(1))
    servers = ReplicaSet(
        [ServerReplica("server", folder / "server", fork_server, FAST_SETTINGS, exchange.add)]
    )
    database = f"sqlite+aiosqlite:///{folder / 'server' / DATABASE_FILE}"
    async with _running(servers, exchange):
        return await _drill(servers, exchange, database)


async def drill_postgres(folder: Path, fork_server: ForkServer, url: str) -> FleetOutcome:
    """Run the drill against two replicas over one database; operators' calls go to both in turn."""
    exchange = LoadBalancedExchange(random.Random(1))
    settings = {
        **FAST_SETTINGS,
        "KEYFLOCK_DATABASE": url,
        "KEYFLOCK_BLOBS": f"file://{folder / 'blobs'}",
        "KEYFLOCK_LEASE_S": "1.0",
    }
    servers = ReplicaSet(
        [
            ServerReplica(name, folder / name, fork_server, settings, exchange.add)
            for name in ("replica-a", "replica-b")
        ]
    )
    async with _running(servers, exchange):
        return await _drill(servers, exchange, url)


async def _drill(servers: ReplicaSet, exchange: LoadBalancedExchange, database: str) -> FleetOutcome:
    store = SqlStore(database)
    try:
        return await run_fleet(servers, exchange, store)
    finally:
        await store.close()


@asynccontextmanager
async def _running(servers: ReplicaSet, exchange: LoadBalancedExchange) -> AsyncIterator[None]:
    try:
        await servers.start()
        yield
    finally:
        await exchange.close()
        await servers.stop()
