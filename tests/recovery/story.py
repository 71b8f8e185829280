"""The whole story: servers and phones at work, killed again and again; then the books are judged."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.recovery.books import Books as ServersBooks
from tests.recovery.books import read_books
from tests.recovery.cast import Replica
from tests.recovery.decider import Decider
from tests.recovery.glimpse import Glimpse
from tests.recovery.leavers import Leavers, Life
from tests.recovery.marks import Ledger, MarkingTrainer
from tests.recovery.plan import Blow, KillingPlan, Target
from tests.recovery.stage import TASKS, Stage, phones_of_all
from tests.recovery.tally import BETWEEN, Tally

from keyflock_client_sim.drivers.books import Books
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_server.rounds.round import Phase

#: Nothing to see of what is waited for during so long, with all servers alive: a stall.
STALL_S: Final = 90.0
#: How long phones that have a report under way may go on at the end. Those of a batch that is not full, and
#: never will be, have no receipt then, and are not counted either.
_DRAIN_S: Final = 10.0
_POLL_S: Final = 0.02


class Stalled(RuntimeError):
    """The servers do not go on by themselves; the message says what was waited for, and how rounds stand."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is left when the story is over."""

    tally: Tally
    ledger: Ledger
    books: ServersBooks
    #: Phones that left in the middle of a round.
    lives: tuple[Life, ...] = ()
    #: Held rounds that an operator accepted; those that were discarded are a phase.
    accepted: int = 0


class Story:
    """One run.

    Args:
        stage: Servers that are ready, over an empty store.
        seed: Of the phones, the moments and the victims.
        on_blow: Is told after each.
        stall_s: What takes longer is a stall.
    """

    def __init__(
        self,
        stage: Stage,
        seed: int,
        on_blow: Callable[[Tally], None] = lambda _: None,
        stall_s: float = STALL_S,
    ) -> None:
        self._stage = stage
        self._seed = seed
        self._on_blow = on_blow
        self._stall_s = stall_s
        self._plan = KillingPlan(random.Random(f"plan:{seed}"), stage.lease_s)
        self._rng = random.Random(f"victims:{seed}")
        self._receipts = 0
        self._is_enough = False
        self._phones: Books | None = None
        self.tally = Tally()
        self.ledger = Ledger(on_ack=self._count)

    async def play(self, kills: int) -> Ending:
        """Until so many processes were killed, and every task has gone on once more after the last.

        Raises:
            Stalled: one has not, or nothing went on between two blows.
            NotReady: a server did not start.
        """
        stage, began_s = self._stage, time.monotonic()
        await stage.found()
        leavers, decider = stage.leavers(self._seed), stage.decider(self._seed)
        async with self._fleet(), _alive(leavers), _alive(decider):
            while self.tally.kills < kills and not self._is_enough:
                await self._strike(self._plan.next(), kills - self.tally.kills)
                self._on_blow(self.tally)
            await self._go_on_once_more()
        await self._until(self._is_settled, "the rounds that close to be closed")
        await stage.servers.close()
        await stage.cast.close()
        books = await read_books(stage.store, stage.blobs, self.ledger.phones, leavers.devices)
        books = books.with_discarded(decider.discarded)
        await stage.store.close()
        await stage.peephole.close()
        self.tally.starts_s = [start_s for one in stage.cast.replicas for start_s in one.starts_s]
        self.tally.stuck = sum(one.said("task stuck") for one in stage.cast.replicas)
        self.tally.seconds = time.monotonic() - began_s
        return Ending(self.tally, self.ledger, books, tuple(leavers.lives), len(decider.accepted))

    def finish(self) -> None:
        """No more blows: go on to the end of the story with what was done."""
        self._is_enough = True

    @asynccontextmanager
    async def _fleet(self) -> AsyncIterator[None]:
        fleet = RealTimeFleet(
            phones_of_all(self._seed),
            self._stage.servers,
            MarkingTrainer(),
            watch=self.ledger.watch,
            drain_s=_DRAIN_S,
        )
        self._phones = fleet.books
        running = asyncio.create_task(fleet.run())
        try:
            yield
        finally:
            fleet.stop()
            await running

    def _count(self) -> None:
        self._receipts += 1

    async def _strike(self, blow: Blow, at_most: int) -> None:
        cast, made = self._stage.cast, self.tally.versions
        if not blow.is_early:
            await cast.ready(cast.replicas)
        if blow.after_version:

            async def has_closed() -> bool:
                return (await self._look()).versions > made

            await self._until(has_closed, "a model version")
        wanted = self._receipts + blow.receipts

        async def has_receipts() -> bool:
            return self._receipts >= wanted

        await self._until(has_receipts, f"{blow.receipts} receipts")
        await asyncio.sleep(blow.pause_s)
        target, victims = await self._victims(blow.target)
        if blow.hang_s:
            await self._hang(victims[0], blow.hang_s)
        else:
            await self._kill(victims[:at_most], target)

    async def _kill(self, victims: list[Replica], target: Target) -> None:
        stage, tally, ids = self._stage, self.tally, [one.id for one in victims]
        await asyncio.gather(*(one.kill() for one in victims))
        for one in victims:
            await stage.servers.remove(one.name)
        glimpse = await self._look()
        tally.note(glimpse, TASKS)
        tally.while_flushing += sum(
            bool(id_) and stage.unreferenced(id_, glimpse.partials) > 0 for id_ in ids
        )
        for one in victims:
            one.start()
        tally.kills += len(victims)
        tally.victims[target] += len(victims)
        tally.while_starting += ids.count("")

    async def _victims(self, target: Target) -> tuple[Target, list[Replica]]:
        """Who is hit, and as what: for want of a leader, another replica."""
        replicas = list(self._stage.cast.replicas)
        if target in (Target.SERVER, Target.ALL):
            return target, replicas
        leader = (await self._look()).leader
        leading = [one for one in replicas if one.id and one.id == leader]
        if target is Target.LEADER and leading:
            return target, leading
        return Target.FOLLOWER, [self._rng.choice([one for one in replicas if one not in leading])]

    async def _hang(self, victim: Replica, hang_s: float) -> None:
        await self._stage.cast.ready([victim])
        before = (await self._look()).leader
        victim.hang()
        await asyncio.sleep(hang_s)
        self.tally.hangs += 1
        self.tally.handed_over += before == victim.id and (await self._look()).leader != before
        victim.wake()

    async def _look(self) -> Glimpse:
        glimpse = await self._stage.peephole.look()
        self.tally.versions = max(self.tally.versions, glimpse.versions)
        return glimpse

    async def _go_on_once_more(self) -> None:
        await self._stage.cast.ready(self._stage.cast.replicas)
        before = await self._closed()

        async def has_gone_on() -> bool:
            return all(count > before[task] for task, count in (await self._closed()).items())

        await self._until(has_gone_on, "another round of every task after the last kill")

    async def _closed(self) -> dict[str, int]:
        store = self._stage.store
        return {task.name: (await store.rounds.tally(task.name))[1] for task in await store.tasks.all()}

    async def _is_settled(self) -> bool:
        return set((await self._look()).phases.values()) <= {Phase.COLLECTING, Phase.HELD}

    async def _situation(self) -> str:
        """What a person would ask first."""
        glimpse, cast = await self._look(), self._stage.cast
        rounds = ", ".join(f"{task} {glimpse.phases.get(task, BETWEEN)}" for task in TASKS)
        leader = next((one.name for one in cast.replicas if one.id and one.id == glimpse.leader), "nobody")
        ready = ", ".join(one.name for one in cast.replicas if one.is_ready.is_set()) or "nobody"
        said = "" if self._phones is None else f"; phones: {dict(self._phones.states())}"
        return f"rounds: {rounds}; leads: {leader}; ready: {ready}{said}"

    async def _until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        began_s = time.monotonic()
        while not await holds():
            self._stage.cast.check()
            if time.monotonic() - began_s > self._stall_s:
                raise Stalled(
                    f"waited {self._stall_s:g} s for {what} after {self.tally.kills} kills; "
                    + await self._situation()
                )
            await asyncio.sleep(_POLL_S)


@asynccontextmanager
async def _alive(actor: Leavers | Decider) -> AsyncIterator[None]:
    """The actor acts meanwhile, and ends what it has begun."""
    living = asyncio.create_task(actor.run())
    try:
        yield
    finally:
        actor.finish()
        await living
