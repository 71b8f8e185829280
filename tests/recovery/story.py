"""The whole story: servers and phones at work, killed again and again; then the books are judged."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.recovery.books import read_books
from tests.recovery.cast import Replica
from tests.recovery.glimpse import Glimpse
from tests.recovery.judge import Verdict, judge
from tests.recovery.marks import Ledger, MarkingTrainer
from tests.recovery.plan import Blow, KillingPlan, Target
from tests.recovery.stage import Stage

from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_server.rounds.round import Phase

#: Without a new model version for so long, or without the receipts that a moment waits for: a stall.
STALL_S: Final = 60.0
_DRAIN_S: Final = 8.0
_POLL_S: Final = 0.005
#: A task that is between two rounds.
BETWEEN: Final = "between"


class Stalled(RuntimeError):
    """The servers do not go on by themselves; the message says what they were waiting for."""


@dataclass
class Tally:
    """What was done to the servers, and how they stood when it was."""

    kills: int = 0
    hangs: int = 0
    #: Of the hangs of a leader, after how many another led.
    handed_over: int = 0
    #: Processes killed, by what they were.
    victims: Counter[str] = field(default_factory=Counter)
    #: Phases of rounds right after a kill, one for each task and blow.
    phases: Counter[str] = field(default_factory=Counter)
    #: Blows at which some round was between its last report and its end.
    while_closing: int = 0
    blows: int = 0
    versions: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of it all."""

    tally: Tally
    verdict: Verdict
    phases: dict[Phase, int]


class Story:
    """One run.

    Args:
        stage: Servers that are ready, over an empty store.
        seed: Of the phones and of the plan.
        on_blow: Is told after each.
    """

    def __init__(self, stage: Stage, seed: int, on_blow: Callable[[Tally], None] = lambda _: None) -> None:
        self._stage = stage
        self._seed = seed
        self._on_blow = on_blow
        self._plan = KillingPlan(random.Random(f"plan:{seed}"), stage.lease_s)
        self._rng = random.Random(f"victims:{seed}")
        self._receipts = 0
        self._progress_s = time.monotonic()
        self.tally = Tally()
        self.ledger = Ledger(on_ack=self._count)

    async def play(self, kills: int) -> Ending:
        """Until so many processes were killed, and the rounds have gone on once more after the last.

        Raises:
            Stalled: they have not.
            NotReady: a server did not start.
        """
        stage, began_s = self._stage, time.monotonic()
        await stage.found()
        phones = stage.phones(self._seed)
        fleet = RealTimeFleet(
            phones, stage.servers, MarkingTrainer(), watch=self.ledger.watch, drain_s=_DRAIN_S
        )
        running = asyncio.create_task(fleet.run())
        try:
            while self.tally.kills < kills:
                await self._strike(self._plan.next(), kills - self.tally.kills)
                self._on_blow(self.tally)
            await self._go_on_once_more()
        finally:
            fleet.stop()
            await running
        self.tally.seconds = time.monotonic() - began_s
        await self._settled()
        await stage.servers.close()
        await stage.cast.close()
        books = await read_books(stage.store, stage.blobs, self.ledger.phones)
        await stage.store.close()
        await stage.peephole.close()
        return Ending(self.tally, judge(self.ledger.acked, books), dict(books.phases))

    def _count(self) -> None:
        self._receipts += 1

    async def _strike(self, blow: Blow, at_most: int) -> None:
        cast = self._stage.cast
        if not blow.is_early:
            await cast.ready(cast.replicas)
        wanted = self._receipts + blow.receipts
        await self._until(lambda: self._receipts >= wanted, f"{blow.receipts} receipts")
        await asyncio.sleep(blow.pause_s)
        victims = (await self._victims(blow.target))[:at_most]
        if blow.hang_s:
            await self._hang(victims[0], blow)
            return
        for one in victims:
            await self._stage.servers.remove(one.name)
        await asyncio.gather(*(one.kill() for one in victims))
        self.tally.kills += len(victims)
        self.tally.victims[blow.target] += len(victims)
        for one in victims:
            one.start()
        self._note(await self._look())

    async def _victims(self, target: Target) -> list[Replica]:
        replicas = list(self._stage.cast.replicas)
        if target in (Target.SERVER, Target.ALL):
            return replicas
        leader = (await self._look()).leader
        leading = [one for one in replicas if one.id and one.id == leader]
        others = [one for one in replicas if one not in leading]
        if target is Target.LEADER and leading:
            return leading
        return [self._rng.choice(others)]

    async def _hang(self, victim: Replica, blow: Blow) -> None:
        await self._stage.cast.ready([victim])
        before = (await self._look()).leader
        victim.hang()
        await asyncio.sleep(blow.hang_s)
        self.tally.hangs += 1
        self.tally.handed_over += before == victim.id and (await self._look()).leader != before
        victim.wake()

    async def _look(self) -> Glimpse:
        glimpse = await self._stage.peephole.look()
        if glimpse.versions > self.tally.versions:
            self.tally.versions, self._progress_s = glimpse.versions, time.monotonic()
        elif time.monotonic() - self._progress_s > STALL_S:
            standing = ", ".join(f"{task} {phase}" for task, phase in sorted(glimpse.phases.items()))
            raise Stalled(
                f"no model version for {STALL_S:g} s, {self.tally.kills} kills in; rounds: {standing}"
            )
        return glimpse

    def _note(self, glimpse: Glimpse) -> None:
        tasks = ("eights", "carried", "stale-1", "stale-2")
        standing = [glimpse.phases.get(task, BETWEEN) for task in tasks]
        self.tally.phases.update(str(phase) for phase in standing)
        self.tally.blows += 1
        self.tally.while_closing += any(phase not in (Phase.COLLECTING, BETWEEN) for phase in standing)

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        give_up_s = time.monotonic() + STALL_S
        while not holds():
            self._stage.cast.check()
            if time.monotonic() > give_up_s:
                raise Stalled(f"waited {STALL_S:g} s for {what}, {self.tally.kills} kills in")
            await asyncio.sleep(_POLL_S)

    async def _go_on_once_more(self) -> None:
        """All are ready, and every task has closed another round since."""
        stage = self._stage
        await stage.cast.ready(stage.cast.replicas)
        before = await self._closed()
        give_up_s = time.monotonic() + STALL_S
        while stuck := [task for task, count in (await self._closed()).items() if count <= before[task]]:
            if time.monotonic() > give_up_s:
                raise Stalled(f"after the last kill no round of {', '.join(stuck)} has closed")
            await asyncio.sleep(0.05)

    async def _closed(self) -> dict[str, int]:
        rounds = self._stage.store.rounds
        return {
            task.name: (await rounds.tally(task.name))[1] for task in await self._stage.store.tasks.all()
        }

    async def _settled(self) -> None:
        """No round is between its last report and its end."""
        give_up_s = time.monotonic() + STALL_S
        while set((await self._look()).phases.values()) - {Phase.COLLECTING}:
            if time.monotonic() > give_up_s:
                raise Stalled("a round does not come to its end")
            await asyncio.sleep(0.05)
