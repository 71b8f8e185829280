"""The metrics that Prometheus scrapes: one set per server, so that two servers in one process never mix.

What there is, is declared in ``telemetry.series``; here the declarations become numbers. Labels come from
closed lists (calls, codes, reasons) and from ids that operators made, so phones cannot increase the number
of series. Series of a task or a population go away when it does.
"""

from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from keyflock_server.telemetry.call_totals import CallMetrics
from keyflock_server.telemetry.counting import Counter, Family, Gauge, Histogram
from keyflock_server.telemetry.series import calls, personal, phones, process, releases, rounds
from keyflock_server.telemetry.series.declaration import DeclaredSeries, IdKind

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

F = TypeVar("F", Counter, Gauge, Histogram)
#: Returns the ids of the tasks, or populations, that there are now.
LivingIds = Callable[[], Collection[str]]


class Metrics:
    """The server's metrics. Each attribute counts one declared series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._families: list[Family[Any]] = []
        self._living: dict[IdKind, LivingIds] = {}
        ProcessCollector(registry=self.registry)
        self._add_rounds()
        self._add_phones()
        self._add_calls()
        self._add_personal()
        self._add_process()

    def _add_rounds(self) -> None:
        self.tasks = self._add(Gauge, rounds.TASKS)
        self.rounds = self._add(Counter, rounds.ROUNDS)
        self.rounds_opened = self._add(Counter, rounds.ROUNDS_OPENED)
        self.round_age_s = self._add(Gauge, rounds.ROUND_AGE)
        self.round_age_ratio = self._add(Gauge, rounds.ROUND_AGE_RATIO)
        self.round_duration_s = self._add(Histogram, rounds.ROUND_DURATION)
        self.rounds_held = self._add(Counter, rounds.ROUNDS_HELD)
        self.held_rounds = self._add(Gauge, rounds.HELD_ROUNDS)
        self.task_failures = self._add(Counter, rounds.TASK_FAILURES)
        self.model_version = self._add(Gauge, rounds.MODEL_VERSION)
        self.version_age_s = self._add(Gauge, rounds.VERSION_AGE)
        self.release_steps = self._add(Counter, releases.RELEASE_STEPS)
        self.released_version = self._add(Gauge, releases.RELEASED_VERSION)
        self.release_stage_ratio = self._add(Gauge, releases.RELEASE_STAGE)
        self.release_phase_age_s = self._add(Gauge, releases.RELEASE_PHASE_AGE)
        self.release_stage_age_s = self._add(Gauge, releases.RELEASE_STAGE_AGE)
        self.gate_verdict = self._add(Gauge, releases.GATE_VERDICT)
        self.rollbacks = self._add(Counter, rounds.ROLLBACKS)
        self.pending_reports = self._add(Gauge, rounds.PENDING_REPORTS)
        self.pending_age_s = self._add(Gauge, rounds.PENDING_AGE)
        self.flush_reports = self._add(Histogram, rounds.FLUSH_REPORTS)
        self.flush_duration_s = self._add(Histogram, rounds.FLUSH_DURATION)
        self.flush_interval_s = self._add(Gauge, rounds.FLUSH_INTERVAL)
        self.flush_failures = self._add(Counter, rounds.FLUSH_FAILURES)

    def _add_phones(self) -> None:
        self.check_ins = self._add(Counter, phones.CHECK_INS)
        self.codecs = self._add(Counter, phones.ASSIGNED_CODECS)
        self.reports = self._add(Counter, phones.REPORTS)
        self.report_verdicts = self._add(Counter, phones.REPORT_VERDICTS)
        self.delta_bytes = self._add(Histogram, phones.REPORT_DELTA_BYTES)
        self.failures = self._add(Counter, phones.FAILURES)
        self.assignments_expired = self._add(Counter, phones.ASSIGNMENTS_EXPIRED)
        self.quarantines = self._add(Counter, phones.QUARANTINES)

    def _add_calls(self) -> None:
        #: Durations and bytes of requests, by call.
        self.calls = CallMetrics(
            self._add(Histogram, calls.REQUEST_DURATION),
            self._add(Counter, calls.RECEIVED_BYTES),
            self._add(Counter, calls.SENT_BYTES),
        )
        self.problems = self._add(Counter, calls.PROBLEMS)
        self.internal_errors = self._add(Counter, calls.INTERNAL_ERRORS)
        self.model_downloads = self._add(Counter, calls.MODEL_DOWNLOADS)
        self.model_bytes = self._add(Counter, calls.MODEL_BYTES)
        self.malformed_requests = self._add(Counter, calls.MALFORMED_REQUESTS)
        self.open_connections = self._add(Gauge, calls.OPEN_CONNECTIONS)
        self.connections_closed_early = self._add(Counter, calls.CONNECTIONS_CLOSED_EARLY)
        self.tls_handshake_failures = self._add(Counter, calls.TLS_HANDSHAKE_FAILURES)
        self.certificate_expires_at = self._add(Gauge, calls.CERTIFICATE_EXPIRY)
        self.unusable_certificates = self._add(Gauge, calls.UNUSABLE_CERTIFICATES)
        self.stuck_certificates = self._add(Gauge, calls.STUCK_CERTIFICATES)
        self.admin_authentication_failures = self._add(Counter, calls.AUTHENTICATION_FAILURES)
        self.event_readers = self._add(Gauge, calls.EVENT_READERS)
        self.damaged_event_rows = self._add(Counter, calls.DAMAGED_EVENT_ROWS)
        self.bodies_in_flight = self._add(Gauge, calls.BODIES_IN_FLIGHT)
        self.body_bytes_in_flight = self._add(Gauge, calls.BODY_BYTES_IN_FLIGHT)

    def _add_personal(self) -> None:
        self.suggestion_batch = self._add(Histogram, personal.SUGGESTION_BATCH)
        self.profiles = self._add(Counter, personal.PROFILES)
        self.stored_model_bytes = self._add(Gauge, personal.STORED_MODEL_BYTES)
        self.stored_model_limit_bytes = self._add(Gauge, personal.STORED_MODEL_LIMIT_BYTES)
        self.profile_bytes = self._add(Gauge, personal.PROFILE_BYTES)

    def _add_process(self) -> None:
        self.ready = self._add(Gauge, process.READY)
        self.store_age_s = self._add(Gauge, process.STORE_AGE)
        self.store_failures = self._add(Counter, process.STORE_FAILURES)
        self.audit_entries = self._add(Gauge, process.AUDIT_ENTRIES)
        self.backup_age_s = self._add(Gauge, process.BACKUP_AGE)
        self.is_leader = self._add(Gauge, process.IS_LEADER)
        self.peers = self._add(Gauge, process.PEERS)
        self.event_loop_lag_s = self._add(Histogram, process.EVENT_LOOP_LAG)
        self.event_loop_tasks = self._add(Gauge, process.EVENT_LOOP_TASKS)
        self.tick_duration_s = self._add(Histogram, process.TICK_DURATION)
        self.tick_age_s = self._add(Gauge, process.TICK_AGE)
        self.descriptor_shortages = self._add(Counter, process.DESCRIPTOR_SHORTAGES)

    @property
    def declared(self) -> tuple[DeclaredSeries, ...]:
        """Return the declarations of all these series."""
        return tuple(family.series for family in self._families)

    def keep_only_living(self, id_kind: IdKind, living: LivingIds) -> None:
        """Show series of those tasks, or populations, only that there are when Prometheus asks."""
        self._living[id_kind] = living

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, for ``/metrics``."""
        for id_kind, living in self._living.items():
            ids = living()
            for family in self._families:
                family.keep_only(id_kind, ids)
        return generate_latest(self.registry)

    def _add(self, kind: type[F], series: DeclaredSeries) -> F:
        family = kind(series)
        self._families.append(family)
        self.registry.register(family)
        return family
