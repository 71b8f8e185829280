"""What a process knows of its state, as series: read from memory whenever Prometheus asks, never kept.

So the hot paths count nothing for them, and what is gone is not shown any more.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from keyflock_server.coordinator.coordinator import Coordinator
from keyflock_server.coordinator.store_figures import PopulationFigures
from keyflock_server.coordinator.task_state import OpenRound
from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.releases.non_inferiority import GateVerdict
from keyflock_server.releases.release_state import PHASE_AFTER
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.series.declaration import IdKind

#: The values of a series' labels, and its value.
Value = tuple[tuple[str, ...], float]


class StateSeries:
    """Shows a coordinator's state in the metrics.

    Args:
        coordinator: Its tasks, rounds and versions are shown.
        clock: Returns the current time, aware UTC.
        event_readers: Returns how many streams of live events are open.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        clock: Callable[[], datetime],
        event_readers: Callable[[], int] = int,
    ) -> None:
        self._coordinator = coordinator
        self._clock = clock
        self._event_readers = event_readers

    def show_in(self, metrics: Metrics) -> None:
        """Have the metrics ask for the state."""
        coordinator = self._coordinator
        metrics.tasks.read_from(self._tasks)
        metrics.round_age_s.read_from(self._round_ages)
        metrics.round_age_ratio.read_from(self._round_age_ratios)
        metrics.pending_reports.read_from(self._pending_reports)
        metrics.pending_age_s.read_from(self._pending_ages)
        metrics.model_version.read_from(self._versions)
        metrics.version_age_s.read_from(self._version_ages)
        metrics.released_version.read_from(self._released_versions)
        metrics.release_stage_ratio.read_from(self._release_stages)
        metrics.release_phase_age_s.read_from(self._release_phase_ages)
        metrics.release_stage_age_s.read_from(self._release_stage_ages)
        metrics.gate_verdict.read_from(self._gate_verdicts)
        metrics.backup_age_s.labels().set_function(self._backup_age_s)
        metrics.audit_entries.labels().set_function(lambda: coordinator.store_figures.audit_entries)
        metrics.event_readers.labels().set_function(self._event_readers)
        metrics.is_leader.labels().set_function(lambda: coordinator.is_leader)
        metrics.peers.labels().set_function(lambda: coordinator.peers)
        metrics.store_age_s.labels().set_function(self._store_age_s)
        metrics.keep_only_living(IdKind.TASK, lambda: {state.task for state in coordinator.registry})
        metrics.keep_only_living(IdKind.POPULATION, coordinator.store_figures.populations)

    def _store_age_s(self) -> float:
        read_at = self._coordinator.store_read_at
        return math.nan if read_at is None else self._age_s(read_at)

    def _age_s(self, since: datetime) -> float:
        return max(0.0, (self._clock() - since).total_seconds())

    def _tasks(self) -> Iterator[Value]:
        counts = Counter(state.status for state in self._coordinator.registry)
        yield from (((status,), counts[status]) for status in TaskStatus)

    def _open_rounds(self) -> Iterator[tuple[TaskName, OpenRound]]:
        for state in self._coordinator.registry:
            if state.open_round is not None and not state.open_round.round.is_over:
                yield state.task, state.open_round

    def _round_ages(self) -> Iterator[Value]:
        for task, opened in self._open_rounds():
            yield (task,), self._age_s(opened.round.opened_at)

    def _round_age_ratios(self) -> Iterator[Value]:
        for task, opened in self._open_rounds():
            if opened.is_held or opened.round.is_async:
                continue  # an operator decides when the one ends, and its reports when the other does
            lasts_s = (opened.round.deadline_at - opened.round.opened_at).total_seconds()
            yield (task,), self._age_s(opened.round.opened_at) / lasts_s

    def _pending_reports(self) -> Iterator[Value]:
        for task, opened in self._open_rounds():
            yield (task,), len(opened.batch)

    def _pending_ages(self) -> Iterator[Value]:
        for task, opened in self._open_rounds():
            oldest_at = opened.batch.oldest_at
            yield (task,), 0.0 if oldest_at is None else self._age_s(oldest_at)

    def _versions(self) -> Iterator[Value]:
        for population, state in self._populations():
            yield (population,), state.newest.version

    def _version_ages(self) -> Iterator[Value]:
        trained = self._trained_populations()
        for population, state in self._populations():
            if population in trained:
                yield (population,), self._age_s(state.newest.created_at)

    def _released_versions(self) -> Iterator[Value]:
        for population, state in self._populations():
            yield (population,), state.release.version

    def _release_stages(self) -> Iterator[Value]:
        for population, state in self._populations():
            yield (population,), 0.0 if state.release.candidate is None else state.release.percent / 100

    def _release_phase_ages(self) -> Iterator[Value]:
        for population, state in self._populations():
            yield (population, PHASE_AFTER[state.release.action]), self._age_s(state.release.at)

    def _release_stage_ages(self) -> Iterator[Value]:
        for population, state in self._populations():
            if state.candidate is not None:
                yield (population,), self._age_s(state.candidate.stage_began_at)

    def _gate_verdicts(self) -> Iterator[Value]:
        for population, state in self._populations():
            if state.candidate is not None and state.candidate.verdict is not None:
                for verdict in GateVerdict:
                    yield (population, verdict), verdict is state.candidate.verdict

    def _backup_age_s(self) -> float:
        made_at = self._coordinator.store_figures.newest_backup_at
        return math.inf if made_at is None else self._age_s(made_at)

    def _populations(self) -> Iterable[tuple[PopulationName, PopulationFigures]]:
        return self._coordinator.store_figures.populations().items()

    def _trained_populations(self) -> set[PopulationName]:
        return {
            state.spec.population
            for state in self._coordinator.registry
            if state.status is TaskStatus.ACTIVE and state.spec.kind is TaskKind.TRAIN
        }
