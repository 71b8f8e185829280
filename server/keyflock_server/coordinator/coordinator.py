"""The coordinator is one process's parts, wired together, and the process's life: start, passes, stop."""

import asyncio
import contextlib
from datetime import datetime

from keyflock_server.coordinator.assignment_builder import AssignmentBuilder
from keyflock_server.coordinator.audit_service import AuditService
from keyflock_server.coordinator.check_in import CheckInService
from keyflock_server.coordinator.data_export import DataExportService
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.device_sync import DeviceSync
from keyflock_server.coordinator.downlink import Downlink
from keyflock_server.coordinator.early_check_ins import EarlyCheckIns
from keyflock_server.coordinator.enrolment import EnrolmentService
from keyflock_server.coordinator.erasure import ErasureService
from keyflock_server.coordinator.error_texts import error_text
from keyflock_server.coordinator.flush_scheduler import FlushScheduler
from keyflock_server.coordinator.leadership import Leadership
from keyflock_server.coordinator.micro_batch import ReportOutcome
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.norm_scales import TaskScales
from keyflock_server.coordinator.operator_lists import OperatorLists
from keyflock_server.coordinator.orphan_collection import OrphanCollection
from keyflock_server.coordinator.pace_steering import PaceSteering
from keyflock_server.coordinator.population_deletion import PopulationDeletion
from keyflock_server.coordinator.population_service import PopulationService
from keyflock_server.coordinator.quarantine_service import QuarantineService
from keyflock_server.coordinator.release_gate import ReleaseGate
from keyflock_server.coordinator.release_policies import ReleasePolicies
from keyflock_server.coordinator.release_service import ReleaseService
from keyflock_server.coordinator.release_steps import ReleaseSteps
from keyflock_server.coordinator.report_committer import ReportCommitter
from keyflock_server.coordinator.report_intake import ReportIntake
from keyflock_server.coordinator.report_service import ReportService
from keyflock_server.coordinator.round_counter import RoundCounter
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.round_endings import RoundEndings
from keyflock_server.coordinator.round_opening import RoundOpening
from keyflock_server.coordinator.round_preparation import RoundPreparation
from keyflock_server.coordinator.round_reading import RoundReading
from keyflock_server.coordinator.seen_devices import SeenDevices
from keyflock_server.coordinator.store_figures import StoreFigures
from keyflock_server.coordinator.task_forecasts import TaskForecasts
from keyflock_server.coordinator.task_histories import TaskHistories
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_service import TaskService
from keyflock_server.coordinator.token_revocations import TokenRevocations
from keyflock_server.coordinator.unproven_deletion import UnprovenDeletion
from keyflock_server.coordinator.verdict_counter import VerdictCounter
from keyflock_server.coordinator.version_service import VersionService
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.storage.blob_identity import open_store


class Coordinator:
    """Wires the services that answer phones and operators, and drives the tasks of one process.

    Guarantees:
        A report that was acknowledged is in the aggregate exactly once, also when the process is killed at
        any instant (docs/decisions/0004), and when several processes share the store (0024).
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self.models = ModelStore(deps)
        self._flusher = ReportCommitter(deps)
        self._leadership = Leadership(deps)
        scales = TaskScales(deps, self.models)
        self.downlink = Downlink(deps, self.models)
        self._pace = PaceSteering(deps)
        assignments = AssignmentBuilder(deps, self.models, self.downlink)
        preparation = RoundPreparation(deps, assignments, self._pace)
        opening = RoundOpening(deps, self.models, scales)
        self._rounds = RoundDriver(
            deps, self.models, self._flusher, self._leadership, scales, preparation, opening
        )
        self.registry = TaskRegistry(deps, self._rounds)
        endings = RoundEndings(deps, self.registry, self._rounds, self._flusher)
        self.tasks = TaskService(deps, self.registry, self.models, scales, self._rounds, opening, endings)
        self.task_history = TaskHistories(deps)
        self.forecasts = TaskForecasts(deps, self.registry, self.models)
        self._verdict_counter = VerdictCounter(deps)
        self._failure_counter = RoundCounter(deps.store.causes)
        early_check_ins = EarlyCheckIns(deps, self.registry)
        self.quarantines = QuarantineService(deps)
        self.audit = AuditService(deps)
        self._flushes = FlushScheduler(deps, self._flusher)
        intake = ReportIntake(deps, self._flushes, self._verdict_counter, self.quarantines)
        self.reports = ReportService(
            deps, self.registry, intake, self.quarantines, early_check_ins, self._failure_counter
        )
        self._device_sync = DeviceSync(deps, self.registry)
        self._seen_devices = SeenDevices(deps)
        self.check_ins = CheckInService(
            deps,
            self.registry,
            self.models,
            self.quarantines,
            assignments,
            early_check_ins,
            self._pace,
            self._seen_devices,
        )
        self.revocations = TokenRevocations(deps)
        self.enrolments = EnrolmentService(deps, self.models, self.registry, self.revocations)
        self.erasure = ErasureService(deps, self.revocations, self.registry, early_check_ins)
        self.exports = DataExportService(deps)
        self.population_deletion = PopulationDeletion(deps, self.erasure, self._rounds)
        steps, gate = ReleaseSteps(deps), ReleaseGate(deps, self.models)
        self.releases = ReleaseService(deps, self.models, gate, steps)
        self._release_policies = ReleasePolicies(deps, self.models, gate, steps)
        self.populations = PopulationService(
            deps,
            self.registry,
            self.models,
            self._rounds,
            self.population_deletion,
            self._release_policies,
        )
        self.lists = OperatorLists(deps, self.registry, self.models, self.tasks)
        self.reading = RoundReading(deps, self.models)
        self.versions = VersionService(deps, self.models)
        self._unproven_deletion = UnprovenDeletion(deps)
        self._orphans = OrphanCollection(deps)
        self.store_figures = StoreFigures(deps, gate, steps)
        #: When a pass last read everything that it needs from the store; None before the start.
        self.store_read_at: datetime | None = None

    @property
    def is_leader(self) -> bool:
        """Return whether this process opens and closes rounds."""
        return self._leadership.is_leader

    @property
    def peers(self) -> int:
        """Return the number of other replicas that this process knows of."""
        return self._leadership.peers

    def has_rounds_to_close(self) -> bool:
        """Return whether this process leads, and a round is open that it will have to make a version of."""
        return self._leadership.is_leader and any(
            state.open_round is not None and state.spec.kind is TaskKind.TRAIN for state in self.registry
        )

    async def start(self) -> None:
        """Open the store and resume what was in flight.

        Raises:
            StorageError: fault of the operator; the store cannot be used.
        """
        if await open_store(self._deps.store, self._deps.blobs, self._deps.new_id):
            self._deps.observer.blobs_marked()
        await self._leadership.renew()
        await self.registry.sync()
        await self._device_sync.refresh()
        await self._refresh_stats()
        await self.revocations.sync()
        await self.store_figures.refresh_if_wanted()
        self.store_read_at = self._deps.clock()

    async def tick(self) -> None:
        """Do what is due now: read what other processes have done; flush, close, abandon and open rounds.

        A task whose round cannot go on (a blob is lost, the disk is full) does not stop the others: its error
        is reported to the observer, and the next pass tries again. An unreachable store is handled alike.
        """
        self.models.forget_rows()
        try:
            await self.revocations.sync()
            await self._leadership.renew()
            await self.registry.sync()
            if self._leadership.is_leader:
                await self.registry.resume_due()
            await self._device_sync.refresh()
        except Exception as error:  # noqa: BLE001 - whatever it was, the process waits for its store
            self._deps.observer.store_unreachable(error)
            return
        self.store_read_at = self._deps.clock()
        for state in self.registry:
            if state.is_unreadable:
                continue
            try:
                await self._rounds.drive(state)
                state.last_error = ""
                await self.revocations.sync()
            except Exception as error:  # noqa: BLE001 - whatever it was, the other tasks go on
                state.last_error = error_text(error)
                self._deps.observer.task_stuck(state.task, error)
        await self._apply_release_policies()
        await self._do_housekeeping()
        if self._leadership.is_leader:
            await self._orphans.collect_if_due()

    async def stop(self) -> None:
        """Commit what may be committed, and close the store. Phones send again what was not acknowledged."""
        # At once: a flush of a task whose round closes at this moment waits until then.
        hurried = (self._flusher.flush_if_due(state, is_hurried=True) for state in self.registry)
        await asyncio.gather(self._flushes.stop(), *hurried)
        await self.downlink.stop()
        await self._do_housekeeping()
        with contextlib.suppress(Exception):  # they only serve to estimate
            await self._pace.write_counts(is_last=True)
        for state in self.registry:
            if state.open_round is not None:
                state.open_round.batch.settle_all(ReportOutcome.STOPPING)
        with contextlib.suppress(Exception):  # the leases expire by themselves
            await self._leadership.release()
        await self._deps.writes.drain()
        self._deps.compute.end()
        await asyncio.to_thread(self._deps.compute.join)
        await self._deps.store.close()
        self._deps.closing.end()
        await asyncio.to_thread(self._deps.closing.join)  # last: it may be importing JAX

    async def _refresh_stats(self) -> None:
        for state in self.registry:
            if not state.is_unreadable:
                await self._pace.refresh_stats(state)

    async def _apply_release_policies(self) -> None:
        """Take the steps of releases that are due; if the store fails, the next pass retries."""
        if not self._leadership.is_leader:
            return
        try:
            await self._release_policies.apply()
        except Exception as error:  # noqa: BLE001 - no round waits for a release
            self._deps.observer.release_policies_failed(error)

    async def _do_housekeeping(self) -> None:
        """Write and read counts, delete devices; if the store fails, the next pass retries."""
        try:
            await self._seen_devices.write()  # first: a device that has come back is not deleted
            if self._leadership.is_leader:
                await self._unproven_deletion.delete_due()
            await self._verdict_counter.write()
            await self._failure_counter.write()
            if self._leadership.is_leader:
                await self.revocations.prune()
                await self.population_deletion.resume_due()
            await self._refresh_stats()
            await self.store_figures.refresh_if_wanted()
        except Exception as error:  # noqa: BLE001 - no round waits for them
            self._deps.observer.housekeeping_failed(error)
