"""What a chaos run needs: exchange over one of two stores, five populations, and tasks of every kind.

eights   synchronous, with a deadline that only a round with lost slots reaches: most close with their goal
carried  synchronous, with a deadline shorter than many an outage: rounds are carried into the next
held     synchronous, with checks that no step passes: an operator accepts or discards every round
judged   synchronous, beside an evaluate task of the same population, whose phones do not train
judging  that task: each version against the first one, a phone once; rounds that find too few are abandoned
stale-1, stale-2   asynchronous, of one population: pending reports count, and steps are made again
                   because the other task has published
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.recovery.database_snapshot import SnapshotReader
from tests.recovery.departing_phones import DepartingPhones, Departure
from tests.recovery.fork_server import ForkServer
from tests.recovery.load_balanced_exchange import LoadBalancedExchange
from tests.recovery.one_hot_fleet import (
    JUDGES,
    create_population,
    evaluation_toml,
    one_hot_phones,
    task_toml,
)
from tests.recovery.operator_decisions import SimulatedOperator
from tests.recovery.release_decisions import ReleasingOperator
from tests.recovery.replicas import FAST_SETTINGS, ReplicaSet, ServerReplica

from keyflock_client_sim.fleet.phone import Phone
from keyflock_client_sim.server_control.operator_access import operator_client
from keyflock_server.data_folder import BLOBS_FOLDER, DATABASE_FILE
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.blobs import LocalBlobStore
from keyflock_server.storage.sql.store import SqlStore

#: How long the leader's lease and the replicas' slots last.
LEASE_S: Final = 1.0
REPLICAS: Final = 3
#: The deadline of rounds that are to close with their goal. A phone whose renewed token was lost cannot give
#: its slot back: such a round goes on after this time.
LONG_DEADLINE_S: Final = 60.0
#: How long another replica may take to hear that a token is void, as docs/operations.md says.
TOKEN_VOID_WITHIN_S: Final = 5.0
_EIGHTS: Final = PopulationName("en")
_CARRIED: Final = PopulationName("de")
_STALE: Final = PopulationName("fr")
_HELD: Final = PopulationName("es")
_STALE_TASKS: Final = ("stale-1", "stale-2")
_JUDGED: Final = PopulationName("it")
TASKS: Final = ("eights", "carried", "held", *_STALE_TASKS, "judged", "judging")
#: Coordinates of each population's phones that train.
_PHONES: Final = {
    _EIGHTS: range(10),
    _CARRIED: range(10, 19),
    _STALE: range(19, 31),
    _HELD: range(31, 40),
    _JUDGED: range(40, 50),
}
_SYNC: Final = """
minimum = 8
over_selection = 0.0
selection_s = 0.1
"""
_ASYNC: Final = """
mode = "async"
concurrency = 8
deadline_s = 60.0
min_flush_clients = 2
unsafe_single_flush = true
"""


@dataclass(frozen=True, slots=True)
class ChaosEnvironment:
    """All that a chaos run needs."""

    servers: ReplicaSet
    exchange: LoadBalancedExchange
    snapshots: SnapshotReader
    store: SqlStore
    blobs: LocalBlobStore
    #: The folder of the blobs.
    blobs_folder: Path
    #: None where one server runs alone, which needs no lease.
    lease_s: float | None

    def count_orphaned_partials(self, replica: str, partials: frozenset[str]) -> int:
        """Return how many partial aggregates of one process no row points to.

        Args:
            replica: Id of the process.
            partials: Keys of the partial aggregates that rows point to.
        """
        written = (self.blobs_folder / "partials").glob(f"*/{replica}/*")
        return sum(path.relative_to(self.blobs_folder).as_posix() not in partials for path in written)

    def departing_phones(self) -> DepartingPhones:
        """Return phones that enrol and leave in the middle of a round."""
        # A revoked phone cannot give its slot back: its round must have a deadline.
        populations = dict.fromkeys(Departure, _EIGHTS) | {Departure.REVOKED: _CARRIED}
        token_void_within_s = 0.0 if self.lease_s is None else TOKEN_VOID_WITHIN_S
        return DepartingPhones(self.exchange, self._ready_admin_port, populations, token_void_within_s)

    def simulated_operator(self, seed: int) -> SimulatedOperator:
        """Return an operator who decides about held rounds."""
        return SimulatedOperator(self.store, self.blobs, self._ready_admin_port, seed)

    def releasing_operator(self, seed: int) -> ReleasingOperator:
        """Return an operator who takes steps of a population's release."""
        return ReleasingOperator(_EIGHTS, self._ready_admin_port, seed)

    async def _ready_admin_port(self) -> tuple[str, str]:
        """Return the address of an admin port that answers now, and the token for it."""
        waiting = {asyncio.create_task(one.is_ready.wait()): one for one in self.servers.replicas}
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
        return waiting[next(iter(done))].admin_url, self.servers.admin_token

    async def create_populations_and_tasks(self) -> None:
        """Create the populations and their tasks."""
        # Each replica batches the reports that it got, so one report alone must be able to close a round.
        min_clients = 4 if self.lease_s is None else 1
        eights = f"{_SYNC}deadline_s = {LONG_DEADLINE_S}\nmin_flush_clients = {min_clients}"
        eights += "\nunsafe_single_flush = true"
        carried = f"{_SYNC}deadline_s = 1.5\nmin_flush_clients = 1\nunsafe_single_flush = true"
        async with operator_client(self.servers.replicas[0].admin_url, self.servers.admin_token) as admin:
            await create_population(admin, _EIGHTS, task_toml("eights", _EIGHTS, eights))
            await create_population(admin, _CARRIED, task_toml("carried", _CARRIED, carried))
            await create_population(
                admin, _HELD, task_toml("held", _HELD, f"{eights}\n[checks]\nmax_step_ratio = 0.5")
            )
            judging = (
                f"{_SYNC}deadline_s = 5.0\nmin_flush_clients = {min_clients}\nunsafe_single_flush = true"
            )
            await create_population(
                admin,
                _JUDGED,
                task_toml("judged", _JUDGED, eights),
                evaluation_toml("judging", _JUDGED, judging),
            )
            await create_population(
                admin, _STALE, *(task_toml(name, _STALE, _ASYNC) for name in _STALE_TASKS)
            )


@asynccontextmanager
async def sqlite_environment(
    folder: Path, fork_server: ForkServer, seed: int
) -> AsyncIterator[ChaosEnvironment]:
    """Run one server, with everything in its data folder."""
    exchange = LoadBalancedExchange(random.Random(f"servers:{seed}"))
    replica_set = ReplicaSet(
        [ServerReplica("server", folder / "server", fork_server, FAST_SETTINGS, exchange.add)]
    )
    data = folder / "server"
    async with _running(replica_set, exchange):
        yield ChaosEnvironment(
            replica_set,
            exchange,
            SnapshotReader.of_sqlite(data / DATABASE_FILE),
            SqlStore(f"sqlite+aiosqlite:///{data / DATABASE_FILE}"),
            LocalBlobStore(data / BLOBS_FOLDER),
            data / BLOBS_FOLDER,
            lease_s=None,
        )


@asynccontextmanager
async def postgres_environment(
    folder: Path, fork_server: ForkServer, seed: int, url: str
) -> AsyncIterator[ChaosEnvironment]:
    """Run replicas over one PostgreSQL database and one folder of blobs."""
    exchange = LoadBalancedExchange(random.Random(f"servers:{seed}"))
    blobs = folder / "blobs"
    settings = {
        **FAST_SETTINGS,
        "KEYFLOCK_DATABASE": url,
        "KEYFLOCK_BLOBS": f"file://{blobs}",
        "KEYFLOCK_LEASE_S": str(LEASE_S),
    }
    names = [f"replica-{letter}" for letter in "abc"[:REPLICAS]]
    replica_set = ReplicaSet(
        [ServerReplica(name, folder / name, fork_server, settings, exchange.add) for name in names]
    )
    async with _running(replica_set, exchange):
        yield ChaosEnvironment(
            replica_set,
            exchange,
            SnapshotReader.of_url(url),
            SqlStore(url),
            LocalBlobStore(blobs),
            blobs,
            LEASE_S,
        )


@asynccontextmanager
async def _running(replica_set: ReplicaSet, exchange: LoadBalancedExchange) -> AsyncIterator[None]:
    """Start the servers, and stop them when the block ends, however it ends."""
    try:
        await replica_set.start()
        yield
    finally:
        await exchange.close()
        await replica_set.stop()


def all_phones(seed: int) -> tuple[Phone, ...]:
    """Return the phones of all populations."""
    training = [one_hot_phones(name, coordinates, seed) for name, coordinates in _PHONES.items()]
    judging = one_hot_phones(_JUDGED, JUDGES, seed, "evaluate")
    return tuple(phone for phones in (*training, judging) for phone in phones)
