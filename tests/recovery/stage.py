"""What is played: two stores, four populations, and the tasks that make rounds of every kind.

eights   synchronous, no deadline that matters: every round closes with its goal
carried  synchronous, with a deadline shorter than many an outage: rounds are carried into the next
held     synchronous, with checks that no step passes: an operator accepts or discards every round
stale-1, stale-2   asynchronous, of one population: late reports count, and steps are made again
                   because the other task has published
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.recovery.any_server import AnyServer
from tests.recovery.cast import HASTE, Cast, Replica
from tests.recovery.decider import Decider
from tests.recovery.glimpse import Peephole
from tests.recovery.leavers import Departure, Leavers
from tests.recovery.marks import found, marking_phones, task
from tests.recovery.nursery import Nursery

from keyflock_client_sim.demo.admin_client import AdminClient
from keyflock_client_sim.fleet.phone import Phone
from keyflock_server.data_folder import BLOBS_FOLDER, DATABASE_FILE
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.blobs import LocalBlobs
from keyflock_server.storage.sql.store import SqlStore

#: Of the leader's lease and the replicas' slots.
LEASE_S: Final = 1.0
REPLICAS: Final = 3
#: How long another replica may take to hear that a token is void, as docs/operations.md says.
REPLICAS_HEAR_WITHIN_S: Final = 5.0
_EIGHTS: Final = PopulationName("en")
_CARRIED: Final = PopulationName("de")
_STALE: Final = PopulationName("fr")
_HELD: Final = PopulationName("es")
_STALE_TASKS: Final = ("stale-1", "stale-2")
TASKS: Final = ("eights", "carried", "held", *_STALE_TASKS)
#: Coordinates of each population's phones.
_PHONES: Final = {_EIGHTS: range(10), _CARRIED: range(10, 19), _STALE: range(19, 31), _HELD: range(31, 40)}
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
class Stage:
    """All that a story needs."""

    cast: Cast
    servers: AnyServer
    peephole: Peephole
    store: SqlStore
    blobs: LocalBlobs
    #: Where the blobs lie.
    blobs_folder: Path
    #: None: one server, which needs none.
    lease_s: float | None

    def unreferenced(self, replica: str, partials: frozenset[str]) -> int:
        """Partial aggregates of one process that no row points to, among those that rows do point to."""
        written = (self.blobs_folder / "partials").glob(f"*/{replica}/*")
        return sum(path.relative_to(self.blobs_folder).as_posix() not in partials for path in written)

    def leavers(self, seed: int) -> Leavers:
        """Phones that come and leave in the middle of a round."""
        # A revoked phone cannot give its slot back: its round must have a deadline.
        populations = dict.fromkeys(Departure, _EIGHTS) | {Departure.REVOKED: _CARRIED}
        bound_s = 0.0 if self.lease_s is None else REPLICAS_HEAR_WITHIN_S
        return Leavers(self.servers, self._operator, populations, bound_s, seed)

    def decider(self, seed: int) -> Decider:
        """An operator who decides about held rounds."""
        return Decider(self.store, self.blobs, self._operator, seed)

    async def _operator(self) -> tuple[str, str]:
        """An admin port that answers now, and its token."""
        waiting = {asyncio.create_task(one.is_ready.wait()): one for one in self.cast.replicas}
        done, late = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in late:
            one.cancel()
        return waiting[next(iter(done))].admin_url, self.cast.admin_token

    async def found(self) -> None:
        """Populations and tasks."""
        # Several replicas: each holds what it got, and one report alone must be able to close a round.
        least = 4 if self.lease_s is None else 1
        eights = f"{_SYNC}deadline_s = 3600.0\nmin_flush_clients = {least}\nunsafe_single_flush = true"
        carried = f"{_SYNC}deadline_s = 1.5\nmin_flush_clients = 1\nunsafe_single_flush = true"
        async with AdminClient(self.cast.replicas[0].admin_url, self.cast.admin_token) as admin:
            await found(admin, _EIGHTS, task("eights", _EIGHTS, eights))
            await found(admin, _CARRIED, task("carried", _CARRIED, carried))
            await found(admin, _HELD, task("held", _HELD, f"{eights}\n[checks]\nmax_step_ratio = 0.5"))
            await found(admin, _STALE, *(task(name, _STALE, _ASYNC) for name in _STALE_TASKS))


@asynccontextmanager
async def over_sqlite(folder: Path, nursery: Nursery, seed: int) -> AsyncIterator[Stage]:
    """One server, with everything in its data folder."""
    servers = AnyServer(random.Random(f"servers:{seed}"))
    cast = Cast([Replica("server", folder / "server", nursery, HASTE, servers.add)])
    data = folder / "server"
    async with _played(cast, servers):
        yield Stage(
            cast,
            servers,
            Peephole.into_sqlite(data / DATABASE_FILE),
            SqlStore(f"sqlite+aiosqlite:///{data / DATABASE_FILE}"),
            LocalBlobs(data / BLOBS_FOLDER),
            data / BLOBS_FOLDER,
            lease_s=None,
        )


@asynccontextmanager
async def over_postgres(folder: Path, nursery: Nursery, seed: int, url: str) -> AsyncIterator[Stage]:
    """Replicas over one PostgreSQL database and one folder of blobs."""
    servers = AnyServer(random.Random(f"servers:{seed}"))
    blobs = folder / "blobs"
    environment = {
        **HASTE,
        "KEYFLOCK_DATABASE": url,
        "KEYFLOCK_BLOBS": f"file://{blobs}",
        "KEYFLOCK_LEASE_S": str(LEASE_S),
    }
    names = [f"replica-{letter}" for letter in "abc"[:REPLICAS]]
    cast = Cast([Replica(name, folder / name, nursery, environment, servers.add) for name in names])
    async with _played(cast, servers):
        yield Stage(cast, servers, Peephole.into(url), SqlStore(url), LocalBlobs(blobs), blobs, LEASE_S)


@asynccontextmanager
async def _played(cast: Cast, servers: AnyServer) -> AsyncIterator[None]:
    """The servers are there, and gone at the end, however it ends."""
    try:
        await cast.open()
        yield
    finally:
        await servers.close()
        await cast.close()


def phones_of_all(seed: int) -> tuple[Phone, ...]:
    """The whole fleet."""
    return tuple(phone for of, names in _PHONES.items() for phone in marking_phones(of, names, seed))
