"""The coordinator: what phones and operators may ask, composed of one part for each idea."""

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from keyflock_compression import CodecSpec, SpecError, sizes_of
from keyflock_models.config import ModelConfig
from keyflock_server.coordinator.check_in import CheckIns
from keyflock_server.coordinator.cohort_preview import preview_cohort
from keyflock_server.coordinator.desk import Desk
from keyflock_server.coordinator.downlink import Downlink, ModelDelta
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns
from keyflock_server.coordinator.enrolment import EnrolledDevice, Enrolments
from keyflock_server.coordinator.flushing import Flusher
from keyflock_server.coordinator.forgetting import ErasureScope, Forgetting
from keyflock_server.coordinator.held_rounds import HeldRounds
from keyflock_server.coordinator.intake import Intake
from keyflock_server.coordinator.leadership import Leadership
from keyflock_server.coordinator.micro_batch import Outcome
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.orphan_collection import OrphanCollection
from keyflock_server.coordinator.rollback import Rollbacks
from keyflock_server.coordinator.rounds import Rounds, trouble
from keyflock_server.coordinator.standings import Standings
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.coordinator.task_conflicts import check_conflicts
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.coordinator.trunk import Trunk
from keyflock_server.coordinator.unproven_deletion import UnprovenDeletion
from keyflock_server.coordinator.verdict_tally import VerdictTally
from keyflock_server.coordinator.views import population_view, round_view, task_view
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import (
    Assignment,
    CheckIn,
    EnrolRequest,
    Failure,
    Forgotten,
    ModelWeights,
    Noted,
    Offer,
    OfferAnswer,
    Receipt,
    Refusal,
    Release,
    Report,
)
from keyflock_server.protocol.operator import (
    CohortPreview,
    DecisionOrder,
    Devices,
    DeviceView,
    PopulationView,
    QuarantineOrder,
    RollbackOrder,
    RoundView,
    TaskView,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.releases.model_version import Download
from keyflock_server.rounds.round import Phase
from keyflock_server.rounds.task import TaskSpec, TaskStatus
from keyflock_server.storage.blob_identity import open_store
from keyflock_server.storage.door import AlreadyExists, UnreadableRow
from keyflock_server.storage.records import TaskRecord

#: Of a task that runs for years, an operator's list has the newest.
MOST_ROUNDS: Final = 1_000


class Coordinator:
    """One process's coordinator.

    Guarantees:
        A report that was acknowledged is in the aggregate exactly once, also when the process is killed at
        any instant (docs/decisions/0004), and when several processes share the store (0024).
    """

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._desks: dict[TaskName, Desk] = {}
        self._trunk = Trunk(world)
        self._flusher = Flusher(world)
        self._leadership = Leadership(world)
        self._scales = TaskScales(world, self._trunk)
        self._rounds = Rounds(world, self._trunk, self._flusher, self._leadership, self._scales)
        self._held = HeldRounds(world, self._desks, self._rounds)
        self._rollbacks = Rollbacks(world, self._trunk, self._rounds)
        self._tally = VerdictTally(world)
        self._standings = Standings(world)
        self._intake = Intake(world, self._desks, self._flusher, self._catch_up, self._tally, self._standings)
        self._downlink = Downlink(world, self._trunk)
        self._early = EarlyCheckIns(world, self._desks)
        self._check_ins = CheckIns(
            world, self._desks, self._trunk, self._standings, self._downlink, self._early
        )
        self._revocations = TokenRevocations(world)
        self._enrolments = Enrolments(world, self._trunk, self._desks, self._revocations)
        self._forgetting = Forgetting(world, self._revocations, self._desks)
        self._unproven = UnprovenDeletion(world)
        self._orphans = OrphanCollection(world)
        #: Held while the set of desks changes.
        self._register = asyncio.Lock()

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the store and go on with whatever was in flight.

        Raises:
            StorageError: fault of the operator; the store cannot be used.
        """
        if await open_store(self._world.store, self._world.blobs, self._world.new_id):
            self._world.observer.blobs_marked()
        await self._leadership.renew()
        await self._catch_up()
        await self._standings.refresh()
        await self._revocations.follow()

    async def tick(self) -> None:
        """Whatever is due now: learn what others have done; flush, close, abandon, open.

        A task whose round cannot go on (a blob is lost, the disk is full) does not take the others with it:
        its error is told, and it is tried again at the next pass. So is a store that cannot be reached.
        """
        try:
            await self._revocations.follow()
            await self._leadership.renew()
            await self._catch_up()
        except Exception as error:  # noqa: BLE001 - whatever it was, the process waits for its store
            self._world.observer.store_unreachable(error)
            return
        for desk in list(self._desks.values()):
            if desk.is_unreadable:
                continue
            try:
                await self._rounds.drive(desk)
                desk.trouble = ""
                await self._revocations.follow()
            except Exception as error:  # noqa: BLE001 - whatever it was, the other tasks go on
                desk.trouble = trouble(error)
                self._world.observer.task_stuck(desk.task, error)
        await self._keep_books()
        if self._leadership.is_leader:
            await self._orphans.collect_if_due()

    async def stop(self) -> None:
        """Commit what may be committed, and let go of the store. What was not acknowledged is sent again."""
        for desk in self._desks.values():
            await self._flusher.flush_if_due(desk)
        await self._intake.settle()
        await self._downlink.stop()
        await self._keep_books()
        for desk in self._desks.values():
            if desk.open is not None:
                desk.open.batch.settle_all(Outcome.STOPPING)
        with contextlib.suppress(Exception):  # the leases expire by themselves
            await self._leadership.release()
        await asyncio.to_thread(self._world.workbench.close)
        await self._world.store.close()

    # --- phones -------------------------------------------------------------------------------------

    async def enrol(
        self,
        request: EnrolRequest,
        shown: DeviceIdentity | None,
        *,
        user_proof: str | None = None,
        subject: str | None = None,
    ) -> EnrolledDevice:
        """A new device, or the one whose token was ``shown`` to be refreshed."""
        return await self._enrolments.enrol(request, shown, user_proof=user_proof, subject=subject)

    async def erasure_scope(
        self, identity: DeviceIdentity, user: str | None = None, *, is_whole_user: bool = False
    ) -> ErasureScope:
        """What forget-me takes: the device, or its user's devices in every population."""
        return await self._forgetting.scope(identity, user, is_whole_user=is_whole_user)

    async def forget(self, devices: Sequence[DeviceId]) -> Forgotten:
        """Remove these devices; nothing of them is counted afterwards."""
        for device in devices:
            self._early.forget(device)
        return await self._forgetting.forget(devices)

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        """Work, or why there is none and when to return."""
        return await self._check_ins.check_in(identity, message)

    async def model(self, population: PopulationName, version: int) -> Download:
        """A model version's bytes."""
        return await self._trunk.download(population, version)

    async def released_model(self, population: PopulationName, version: int) -> Download:
        """The bytes that keyboards serve of a version: the versions' average where there is one."""
        return await self._trunk.released(population, version)

    async def model_delta(
        self, population: PopulationName, version: int, weights: ModelWeights, has: Collection[bytes]
    ) -> ModelDelta | None:
        """How a version's bytes follow from a download that the phone has; None: it needs the whole."""
        return await self._downlink.delta(population, version, weights, has)

    async def release(self, population: PopulationName) -> Release:
        """What keyboards should serve."""
        release = await self._trunk.release(population)
        version = await self._trunk.version(population, release.model_version)
        content = await self._downlink.content(version, release.weights)
        return msgspec.structs.replace(release, content_digest=content)

    async def vocabulary(self, population: PopulationName) -> bytes:
        """The words that the model's rows mean."""
        return await self._trunk.vocabulary(population)

    async def config(self, population: PopulationName) -> ModelConfig:
        """The dimensions of the population's model."""
        return await self._trunk.config(population)

    async def offer(self, claims: AssignmentClaims, message: Offer) -> OfferAnswer:
        """Whether to upload."""
        return await self._intake.offer(claims, message)

    async def report(self, claims: AssignmentClaims, message: Report) -> Receipt:
        """Take a delta; returns when it is in the aggregate, durably."""
        receipt = await self._intake.report(claims, message)
        self._early.rest(claims.device, receipt.return_window)
        return receipt

    def unattended_bytes(self) -> int:
        """Bytes of deltas that wait for their flush though no request is under way for them."""
        return self._intake.unattended_bytes()

    async def failure(self, claims: AssignmentClaims, message: Failure) -> Noted:
        """Take note that no delta will come."""
        noted = await self._intake.failure(claims, message)
        self._early.rest(claims.device, noted.return_window)
        return noted

    # --- operators ----------------------------------------------------------------------------------

    async def create_population(self, name: PopulationName, checkpoint: bytes) -> PopulationView:
        """A new population whose version 0 is this checkpoint."""
        return population_view(await self._trunk.found(name, checkpoint), devices=0)

    async def populations(self) -> list[PopulationView]:
        """All of them, by name."""
        store = self._world.store
        return [
            population_view(record, await store.devices.count(record.name))
            for record in await store.populations.all()
        ]

    async def roll_back(self, name: PopulationName, order: RollbackOrder) -> PopulationView:
        """Publish an earlier version anew as the newest; those between are withdrawn."""
        await self._rollbacks.roll_back(name, order.to, order.reason)
        await self._catch_up()
        population = await self._trunk.population(name)
        return population_view(population, await self._world.store.devices.count(name))

    async def preview_cohort(self, population: PopulationName, expression: str) -> CohortPreview:
        """How many of a population's devices an expression fits."""
        await self._trunk.population(population)
        specs = [desk.spec for desk in self._desks.values() if desk.spec.population == population]
        return await preview_cohort(
            self._world, population, expression, sum(spec.round.slots for spec in specs)
        )

    async def create_task(self, spec: TaskSpec) -> TaskView:
        """A new task; its first round opens with the next pass.

        Raises:
            Refused: ``population_unknown``; ``conflict`` when the name is taken, or when the task would
                personalise a population that an unfinished task personalises already: each would forget the
                other's candidates, or when it disagrees with another on what keyboards serve. Tasks that
                train share a population; each steps from the newest version. ``invalid_task`` when its codec
                names rows that the population's model has not.
        """
        population = await self._trunk.population(spec.population)
        layout = await self._trunk.report_layout(spec)
        for path, codec in spec.codecs.items():
            try:
                sizes_of(CodecSpec.from_wire(codec), layout)
            except SpecError as error:
                raise Refused(ProblemCode.INVALID_TASK, f"{path}: {error}") from None
        scales = await self._scales.beginning(spec)
        async with self._register:
            check_conflicts(spec, self._desks.values())
            record = TaskRecord(
                spec=spec,
                status=TaskStatus.ACTIVE,
                created_at=self._world.clock(),
                norm_scales_json=scales,
            )
            try:
                await self._world.store.tasks.add(record)
            except AlreadyExists:
                raise _name_taken(spec.name) from None
            self._desks[spec.name] = Desk(spec, TaskStatus.ACTIVE)
        if spec.round.is_unsafe_flush:
            self._world.observer.unsafe_flush(spec.name, spec.round.min_flush_clients)
        return task_view(record, population, {})

    async def tasks(self) -> list[TaskView]:
        """All of them, oldest first."""
        return [await self.task(record.name) for record in await self._world.store.tasks.all([])]

    async def task(self, name: TaskName) -> TaskView:
        """One task; raises Refused ``task_unknown``."""
        record = await self._world.store.tasks.get(name)
        if record is None:
            raise _unknown()
        phases = await self._world.store.rounds.phases(name)
        newest = await self._world.store.rounds.of_task(name, last=1) if Phase.HELD in phases else []
        held = next((one.round.id for one in newest if one.round.phase is Phase.HELD), None)
        return task_view(record, await self._trunk.population(record.spec.population), phases, held)

    async def pause_task(self, name: TaskName) -> TaskView:
        """Give out no more work; reports under way are still taken. A paused task stays paused."""
        return await self._set_status(name, TaskStatus.PAUSED)

    async def resume_task(self, name: TaskName) -> TaskView:
        """Give out work again. An active task stays active."""
        return await self._set_status(name, TaskStatus.ACTIVE)

    async def cancel_task(self, name: TaskName) -> TaskView:
        """End the task for good; its open round is cancelled, its version stays. Again is no error."""
        view = await self._set_status(name, TaskStatus.CANCELLED)
        await self._rounds.cancel(self._desk(name))
        return view

    async def rounds(self, task: TaskName) -> list[RoundView]:
        """The task's newest rounds, a thousand at most, oldest first."""
        stuck = self._desk(task).trouble
        population = await self._trunk.population(self._desk(task).spec.population)
        said = await self._world.store.rounds.verdicts(task)
        return [
            round_view(record, population, said.get(record.round.id, {}), stuck)
            for record in await self._world.store.rounds.of_task(task, last=MOST_ROUNDS)
        ]

    async def round(self, round_id: RoundId) -> RoundView:
        """One round; raises Refused ``not_found``."""
        record = await self._world.store.rounds.get(round_id)
        if record is None:
            raise Refused(ProblemCode.NOT_FOUND, "There is no such round here.")
        said = await self._world.store.rounds.verdicts(record.round.task, round_id)
        population = await self._trunk.population(record.round.population)
        trouble = self._desk(record.round.task).trouble
        return round_view(record, population, said.get(round_id, {}), trouble)

    async def accept_round(self, round_id: RoundId, order: DecisionOrder) -> RoundView:
        """Publish what a held round made, with the next pass."""
        await self._held.accept(round_id, order.reason)
        return await self.round(round_id)

    async def discard_round(self, round_id: RoundId, order: DecisionOrder) -> RoundView:
        """Give up what a held round's phones have brought."""
        await self._held.discard(round_id, order.reason)
        return await self.round(round_id)

    async def devices(self, population: PopulationName) -> Devices:
        """Devices of a population, those ever quarantined first."""
        return await self._standings.devices(population)

    async def device(self, device: DeviceId) -> DeviceView:
        """One device."""
        return await self._standings.device(device)

    async def quarantine_device(self, device: DeviceId, order: QuarantineOrder) -> DeviceView:
        """Keep a device out by hand."""
        return await self._standings.quarantine(device, order)

    async def release_device(self, device: DeviceId) -> DeviceView:
        """Let a device in again, with nothing held against it."""
        self._early.forget(device)
        return await self._standings.release(device)

    async def revoke_device(self, device: DeviceId) -> DeviceView:
        """Make all tokens of a device void."""
        await self._revocations.revoke(device)
        return await self.device(device)

    # --- within -------------------------------------------------------------------------------------

    async def _keep_books(self) -> None:
        """Counts, quarantines and devices; when the store fails, the next pass tries again."""
        try:
            if self._leadership.is_leader:
                await self._unproven.delete_due()
            await self._tally.write()
            await self._standings.refresh()
            if self._leadership.is_leader:
                await self._revocations.prune()
        except Exception as error:  # noqa: BLE001 - no round waits for them
            self._world.observer.books_not_kept(error)

    def _desk(self, name: TaskName) -> Desk:
        desk = self._desks.get(name)
        if desk is None:
            raise _unknown()
        return desk

    async def _set_status(self, name: TaskName, status: TaskStatus) -> TaskView:
        desk = self._desk(name)
        async with self._register, desk.turn:
            is_over = desk.status in {TaskStatus.CANCELLED, TaskStatus.FINISHED}
            if is_over and desk.status is not status:
                raise Refused(ProblemCode.CONFLICT, f"Task {name!r} is {desk.status}; create a new one.")
            await self._world.store.tasks.set_status(name, status)
            desk.status = status
        return await self.task(name)

    async def _catch_up(self) -> None:
        """Every task as the store has it, whoever made or changed it."""
        async with self._register:
            store = self._world.store
            # Of several of a task the oldest, as releases that could open two at once have left them.
            damaged: list[UnreadableRow] = []
            rounds = await store.rounds.unfinished(damaged)
            unfinished = {record.round.task: record for record in reversed(rounds)}
            held = sum(record.round.phase is Phase.HELD for record in unfinished.values())
            self._world.observer.rounds_waiting(held)
            tasks = await store.tasks.all(damaged)
            errors = {row.task: row.error for row in damaged}
            for task in tasks:
                desk = self._desks.setdefault(task.name, Desk(task.spec, task.status))
                desk.is_unreadable = task.name in errors
                if not desk.is_unreadable:
                    await self._rounds.follow(desk, task.status, unfinished.get(task.name))
            for name, error in errors.items():
                if name in self._desks:
                    self._desks[name].is_unreadable = True
                    self._desks[name].trouble = trouble(error)
                self._world.observer.task_stuck(name, error)


def _unknown() -> Refused:
    return Refused(ProblemCode.TASK_UNKNOWN, "There is no such task here.")


def _name_taken(name: TaskName) -> Refused:
    return Refused(ProblemCode.CONFLICT, f"There is a task {name!r} already; choose another name.")
