"""One chaos run: servers and phones work, servers are killed again and again, and what is left is read."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from tests.recovery.chaos_environment import TASKS, ChaosEnvironment, all_phones
from tests.recovery.chaos_stats import BETWEEN_ROUNDS, ChaosStats
from tests.recovery.database_snapshot import DatabaseSnapshot
from tests.recovery.departing_phones import DepartedPhone, DepartingPhones, Departure
from tests.recovery.fault_plan import FaultPlan, FaultTarget, InjectedFault
from tests.recovery.one_hot_fleet import OneHotTrainer, ReceiptLog
from tests.recovery.operator_decisions import SimulatedOperator
from tests.recovery.recorded_state import RecordedState, read_recorded_state
from tests.recovery.release_decisions import ReleasingOperator, release_violations
from tests.recovery.release_drill.served_versions import ServedVersions, with_keyboard
from tests.recovery.replicas import ServerReplica

from keyflock_client_sim.drivers.fleet_stats import FleetEvent, FleetStats
from keyflock_client_sim.drivers.real_time import RealTimeFleet
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.rounds.round import Phase

#: A wait that takes longer than this, with all servers alive, is a stall. It is many times what a wait takes
#: on a busy machine: a round that lost its slots goes on after ``chaos_environment.LONG_DEADLINE_S``.
STALL_S: Final = 300.0
#: How long phones that have a report under way may go on at the end. Reports in a batch that never fills have
#: no receipt then, and are not counted either.
_DRAIN_S: Final = 10.0
_POLL_S: Final = 0.02


class RunStalled(RuntimeError):
    """The servers make no progress; the message says what was waited for and where each round stands."""


@dataclass(frozen=True, slots=True)
class ChaosOutcome:
    """What a run leaves behind."""

    stats: ChaosStats
    receipts: ReceiptLog
    recorded: RecordedState
    #: Phones that left in the middle of a round.
    departed: tuple[DepartedPhone, ...] = ()
    #: Held rounds that an operator accepted; those that were discarded are a phase.
    accepted: int = 0
    #: Steps of releases that an operator took.
    release_steps: int = 0
    #: What is wrong with release histories, the audit log, or what keyboards served.
    release_violations: tuple[str, ...] = ()


class ChaosRun:
    """Inject faults into running servers while phones train, then collect what phones and servers recorded.

    Args:
        environment: Servers that are ready, over an empty store.
        seed: Determines the phones, the moments of the faults and the victims.
        on_fault: Called with the counts after each fault.
        stall_s: A wait that takes longer is a stall.
    """

    def __init__(
        self,
        environment: ChaosEnvironment,
        seed: int,
        on_fault: Callable[[ChaosStats], None] = lambda _: None,
        stall_s: float = STALL_S,
    ) -> None:
        self._environment = environment
        self._seed = seed
        self._on_fault = on_fault
        self._stall_s = stall_s
        self._plan = FaultPlan(random.Random(f"plan:{seed}"), environment.lease_s)
        self._rng = random.Random(f"victims:{seed}")
        self._receipt_count = 0
        self._is_stopping = False
        self._fleet_stats: FleetStats | None = None
        self.stats = ChaosStats()
        self.receipts = ReceiptLog(on_ack=self._count_receipt)
        self._served = ServedVersions([with_keyboard(phone) for phone in all_phones(seed)])

    async def run(self, kills: int) -> ChaosOutcome:
        """Run until so many processes were killed and each task has ended another round after the last kill.

        Raises:
            RunStalled: a task has not ended another round, or nothing happened between two faults.
            ServerNotReady: a server did not start.
        """
        environment, began_s = self._environment, time.monotonic()
        await environment.create_populations_and_tasks()
        await environment.servers.wait_until_read()
        departing = environment.departing_phones()
        operator = environment.simulated_operator(self._seed)
        releasing = environment.releasing_operator(self._seed)
        async with (
            self._running_fleet(),
            _running_actor(departing),
            _running_actor(operator),
            _running_actor(releasing),
        ):
            while self.stats.kills < kills and not self._is_stopping:
                await self._inject(self._plan.next(), kills - self.stats.kills)
                self._on_fault(self.stats)
            await self._wait_for_progress()
            await self._wait_until(
                lambda: _is_varied(departing, operator), "a phone of each departure, and an accepted round"
            )
        await self._wait_until(self._is_settled, "the rounds that close to be closed")
        await environment.exchange.close()
        await environment.servers.stop()
        recorded = await read_recorded_state(
            environment.store, environment.blobs, self.receipts.phones, departing.devices
        )
        recorded = recorded.with_discarded_sums(operator.discarded)
        violations = await release_violations(environment.store, self._served_versions())
        await environment.store.close()
        await environment.snapshots.close()
        self.stats.starts_s = [start_s for one in environment.servers.replicas for start_s in one.starts_s]
        self.stats.stuck = sum(one.log_event_count("task stuck") for one in environment.servers.replicas)
        self.stats.seconds = time.monotonic() - began_s
        return ChaosOutcome(
            self.stats,
            self.receipts,
            recorded,
            tuple(departing.departed),
            len(operator.accepted),
            sum(releasing.taken.values()),
            tuple(violations),
        )

    def stop(self) -> None:
        """Inject no further fault, and end the run with what was done."""
        self._is_stopping = True

    @asynccontextmanager
    async def _running_fleet(self) -> AsyncIterator[None]:
        fleet = RealTimeFleet(
            self._served.phones,
            self._environment.exchange,
            OneHotTrainer(),
            listener=self._record,
            drain_s=_DRAIN_S,
        )
        self._fleet_stats = fleet.stats
        running = asyncio.create_task(fleet.run())
        try:
            yield
        finally:
            fleet.stop()
            await running

    def _record(self, fleet_event: FleetEvent) -> None:
        self.receipts.record(fleet_event)
        self._served.record(fleet_event)

    def _served_versions(self) -> dict[PopulationName, set[ModelVersion]]:
        served: dict[PopulationName, set[ModelVersion]] = {}
        for phone in self._served.phones:
            versions = self._served.by_phone.get(phone.name, ())
            served.setdefault(phone.device.installation.population, set()).update(versions)
        return served

    def _count_receipt(self) -> None:
        self._receipt_count += 1

    async def _inject(self, fault: InjectedFault, max_kills: int) -> None:
        servers, versions_before = self._environment.servers, self.stats.versions
        if not fault.before_ready:
            await servers.wait_until_ready(servers.replicas)
        if fault.after_version:

            async def has_closed() -> bool:
                return (await self._take_snapshot()).versions > versions_before

            await self._wait_until(has_closed, "a model version")
        wanted = self._receipt_count + fault.receipts

        async def has_receipts() -> bool:
            return self._receipt_count >= wanted

        await self._wait_until(has_receipts, f"{fault.receipts} receipts")
        await asyncio.sleep(fault.pause_s)
        target, victims = await self._choose_victims(fault.target)
        if fault.hang_s:
            await self._hang(victims[0], fault.hang_s)
        else:
            await self._kill(victims[:max_kills], target)

    async def _kill(self, victims: list[ServerReplica], target: FaultTarget) -> None:
        environment, stats, ids = self._environment, self.stats, [one.id for one in victims]
        await asyncio.gather(*(one.kill() for one in victims))
        for one in victims:
            await environment.exchange.remove(one.name)
        snapshot = await self._take_snapshot()
        stats.record_snapshot(snapshot, TASKS)
        stats.while_flushing += sum(
            bool(id_) and environment.count_orphaned_partials(id_, snapshot.partials) > 0 for id_ in ids
        )
        for one in victims:
            one.start()
        stats.kills += len(victims)
        stats.victims[target] += len(victims)
        stats.while_starting += ids.count("")

    async def _choose_victims(self, target: FaultTarget) -> tuple[FaultTarget, list[ServerReplica]]:
        """Return the replicas to hit, and what they are; where nobody leads, a follower is hit instead."""
        replicas = list(self._environment.servers.replicas)
        if target in (FaultTarget.SERVER, FaultTarget.ALL):
            return target, replicas
        leader = (await self._take_snapshot()).leader
        leading = [one for one in replicas if one.id and one.id == leader]
        if target is FaultTarget.LEADER and leading:
            return target, leading
        return FaultTarget.FOLLOWER, [self._rng.choice([one for one in replicas if one not in leading])]

    async def _hang(self, victim: ServerReplica, hang_s: float) -> None:
        await self._environment.servers.wait_until_ready([victim])
        before = (await self._take_snapshot()).leader
        victim.suspend()
        await asyncio.sleep(hang_s)
        self.stats.hangs += 1
        self.stats.handed_over += before == victim.id and (await self._take_snapshot()).leader != before
        victim.resume()

    async def _take_snapshot(self) -> DatabaseSnapshot:
        snapshot = await self._environment.snapshots.take()
        self.stats.versions = max(self.stats.versions, snapshot.versions)
        return snapshot

    async def _wait_for_progress(self) -> None:
        await self._environment.servers.wait_until_ready(self._environment.servers.replicas)
        before = await self._opened_rounds()

        async def has_gone_on() -> bool:
            return all(count > before[task] for task, count in (await self._opened_rounds()).items())

        await self._wait_until(has_gone_on, "the next round of every task after the last kill")

    async def _opened_rounds(self) -> dict[str, int]:
        """Count each task's rounds. A task opens its next round when one has ended, be it closed or carried.

        How many rounds of a short deadline are closed with a result depends on how busy the machine is.
        """
        store = self._environment.store
        return {task.name: (await store.rounds.count(task.name))[0] for task in await store.tasks.all()}

    async def _is_settled(self) -> bool:
        return set((await self._take_snapshot()).phases.values()) <= {Phase.COLLECTING, Phase.HELD}

    async def _describe_situation(self) -> str:
        """Return where rounds and servers stand, for the message of a stall."""
        snapshot, servers = await self._take_snapshot(), self._environment.servers
        opened = await self._opened_rounds()
        rounds = ", ".join(
            f"{task} {opened.get(task, 0)} {snapshot.phases.get(task, BETWEEN_ROUNDS)}" for task in TASKS
        )
        leader = next(
            (one.name for one in servers.replicas if one.id and one.id == snapshot.leader), "nobody"
        )
        ready = ", ".join(one.name for one in servers.replicas if one.is_ready.is_set()) or "nobody"
        phone_states = "" if self._fleet_stats is None else f"; phones: {dict(self._fleet_stats.states())}"
        return f"rounds: {rounds}; leads: {leader}; ready: {ready}{phone_states}"

    async def _wait_until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        began_s = time.monotonic()
        while not await holds():
            self._environment.servers.raise_start_failure()
            if time.monotonic() - began_s > self._stall_s:
                raise RunStalled(
                    f"waited {self._stall_s:g} s for {what} after {self.stats.kills} kills; "
                    + await self._describe_situation()
                )
            await asyncio.sleep(_POLL_S)


async def _is_varied(departing: DepartingPhones, operator: SimulatedOperator) -> bool:
    """Return whether what the run is to show has happened at least once; how soon depends on the machine."""
    departures = {one.departure for one in departing.departed}
    return departures == set(Departure) and len(operator.accepted) > 0


@asynccontextmanager
async def _running_actor(
    actor: DepartingPhones | SimulatedOperator | ReleasingOperator,
) -> AsyncIterator[None]:
    """Run the actor while the block runs, and let it end what it has begun."""
    task = asyncio.create_task(actor.run())
    try:
        yield
    finally:
        actor.stop()
        await task
