"""The metrics that Prometheus scrapes: one registry per server, so that two servers in one process never mix.

Labels come from closed lists (calls, codes, reasons) and from names that operators chose, so phones cannot
increase the number of series.
"""

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from keyflock_server.telemetry.call_totals import DURATIONS_S, CallMetrics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_ROUNDS_S: Final = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0)
_BODY_BYTES: Final = (256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216)
_FLUSH_REPORTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048)


class Metrics:
    """The server's metrics. Each attribute is one; its help text says what it counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.check_ins = Counter(
            "keyflock_check_ins",
            "Check-ins answered, by outcome: assigned, repeated (the same work), or the refusal's reason.",
            ["outcome"],
            registry=self.registry,
        )
        self.codecs = Counter(
            "keyflock_assigned_codecs",
            "Assignments given, by the phone's network and the codec that was chosen for it.",
            ["network", "codec"],
            registry=self.registry,
        )
        self.reports = Counter(
            "keyflock_reports",
            "Reports acknowledged: counted, or duplicate of one that was.",
            ["outcome"],
            registry=self.registry,
        )
        self.failures = Counter(
            "keyflock_failures",
            "Assignments that phones gave back, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self.assignments_expired = Counter(
            "keyflock_assignments_expired",
            "Assignments that ran out of time with nothing heard of their devices, by task.",
            ["task"],
            registry=self.registry,
        )
        self.problems = Counter(
            "keyflock_problems",
            "Requests refused with a problem document, by call and code.",
            ["call", "code"],
            registry=self.registry,
        )
        self.suggestion_batch = Histogram(
            "keyflock_suggestion_batch",
            "Questions that went through the network together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.profiles = Counter(
            "keyflock_suggestion_profiles",
            "Users' models wanted for suggestions: hit (in memory) or load (from the store of heads).",
            ["outcome"],
            registry=self.registry,
        )
        self.stored_model_bytes = Gauge(
            "keyflock_stored_model_bytes",
            "Bytes of all stored personal models, as this process knows of them.",
            registry=self.registry,
        )
        self.profile_bytes = Gauge(
            "keyflock_suggestion_profile_bytes",
            "Memory that users' models take for suggestions, about.",
            registry=self.registry,
        )
        #: Durations and bytes of requests, by call.
        self.calls = CallMetrics()
        self.registry.register(self.calls)
        self.model_downloads = Counter(
            "keyflock_model_downloads",
            "Downloads of a model's weights: whole, delta (from one that the phone had) or not_modified.",
            ["kind"],
            registry=self.registry,
        )
        self.model_bytes = Counter(
            "keyflock_model_bytes",
            "Body bytes of the same, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.delta_bytes = Histogram(
            "keyflock_report_delta_bytes",
            "Size of the deltas in acknowledged reports, by the network that the phone asked for work on.",
            ["network"],
            buckets=_BODY_BYTES,
            registry=self.registry,
        )
        self.malformed_requests = Counter(
            "keyflock_malformed_requests",
            "Requests that could not be read, by port and by what is wrong with them.",
            ["port", "kind"],
            registry=self.registry,
        )
        self.open_connections = Gauge(
            "keyflock_open_connections",
            "Connections open now, by port.",
            ["port"],
            registry=self.registry,
        )
        self.connections_closed_early = Counter(
            "keyflock_connections_closed_early",
            "Connections beyond a port's cap: turned_away, or an idle one displaced by a new one.",
            ["port", "cause"],
            registry=self.registry,
        )
        self.tls_handshake_failures = Counter(
            "keyflock_tls_handshake_failures",
            "TLS handshakes that failed, by port and cause: timeout, left, plain_http, version, refused "
            "(most often the certificate) or malformed.",
            ["port", "kind"],
            registry=self.registry,
        )
        self.certificate_expires_at = Gauge(
            "keyflock_tls_certificate_expiry_timestamp_seconds",
            "When the certificate ends that a port shows to new connections, in Unix time.",
            ["port"],
            registry=self.registry,
        )
        self.unusable_certificates = Gauge(
            "keyflock_tls_certificate_files_unusable",
            "1 while a port's certificate files hold what cannot be used, and the one before it is shown.",
            ["port"],
            registry=self.registry,
        )
        self.admin_authentication_failures = Counter(
            "keyflock_admin_authentication_failures",
            "Calls without the admin token on the operators' port: delayed, or refused at once.",
            ["outcome"],
            registry=self.registry,
        )
        self.descriptor_shortages = Counter(
            "keyflock_descriptor_shortages",
            "Passes in which no file could be opened: the process is at its limit; connections are reset.",
            registry=self.registry,
        )
        self.bodies_in_flight = Gauge(
            "keyflock_bodies_in_flight",
            "Requests being read or answered now, by who sent them.",
            ["port"],
            registry=self.registry,
        )
        self.body_bytes_in_flight = Gauge(
            "keyflock_body_bytes_in_flight",
            "Body bytes held in memory now, by who sent them.",
            ["port"],
            registry=self.registry,
        )
        self.rounds = Counter(
            "keyflock_rounds",
            "Rounds that ended, by phase: closed (made a version), abandoned, cancelled or discarded.",
            ["phase"],
            registry=self.registry,
        )
        self.rounds_opened = Counter(
            "keyflock_rounds_opened", "Rounds that began to take assignments.", registry=self.registry
        )
        self.rounds_held = Counter(
            "keyflock_rounds_held",
            "Rounds whose version did not pass the checks.",
            registry=self.registry,
        )
        self.held_rounds = Gauge(
            "keyflock_held_rounds",
            "Rounds that wait for an operator to accept or discard them.",
            registry=self.registry,
        )
        self.rollbacks = Counter(
            "keyflock_rollbacks",
            "Populations that were rolled back to an earlier version.",
            registry=self.registry,
        )
        self.release_steps = Counter(
            "keyflock_release_steps",
            "Steps of releases that this process took, by what they did.",
            ["action"],
            registry=self.registry,
        )
        self.released_version = Gauge(
            "keyflock_released_version",
            "The version that is served to everybody, as of the last step that this process took.",
            ["population"],
            registry=self.registry,
        )
        self.release_stage_percent = Gauge(
            "keyflock_release_stage_percent",
            "Percent of the devices in the candidate's stage, as of the last step that this process took.",
            ["population"],
            registry=self.registry,
        )
        self.round_duration_s = Histogram(
            "keyflock_round_duration_seconds",
            "From the opening of a round to its end.",
            buckets=_ROUNDS_S,
            registry=self.registry,
        )
        self.model_version = Gauge(
            "keyflock_model_version",
            "The newest version that this process published.",
            ["population"],
            registry=self.registry,
        )
        self.report_verdicts = Counter(
            "keyflock_report_verdicts",
            "What was said of uploaded reports: refused, by cause; clipped updates and rows.",
            ["verdict"],
            registry=self.registry,
        )
        self.quarantines = Counter(
            "keyflock_quarantines",
            "Devices that were kept out because their reports were refused repeatedly.",
            registry=self.registry,
        )
        self.flush_reports = Histogram(
            "keyflock_flush_reports",
            "Reports in one committed micro-batch.",
            buckets=_FLUSH_REPORTS,
            registry=self.registry,
        )
        self.flush_duration_s = Histogram(
            "keyflock_flush_duration_seconds",
            "From the start of a flush to its commit.",
            buckets=DURATIONS_S,
            registry=self.registry,
        )
        self.flush_interval_s = Gauge(
            "keyflock_flush_interval_seconds",
            "From the start of a task's last flush to that of the next one, under load.",
            ["task"],
            registry=self.registry,
        )
        self.flush_failures = Counter(
            "keyflock_flush_failures",
            "Micro-batches that could not be committed and were tried again.",
            registry=self.registry,
        )
        self.store_failures = Counter(
            "keyflock_store_failures",
            "Passes that could not read the store and were tried again.",
            registry=self.registry,
        )
        self.task_failures = Counter(
            "keyflock_task_failures",
            "Passes in which a task's round could not go on, by task.",
            ["task"],
            registry=self.registry,
        )
        self.event_loop_lag_s = Histogram(
            "keyflock_event_loop_lag_seconds",
            "How much later than asked the event loop came back to the pass over deadlines.",
            buckets=DURATIONS_S,
            registry=self.registry,
        )
        self.event_loop_tasks = Gauge(
            "keyflock_event_loop_tasks",
            "Asynchronous tasks in the process: one for each request being answered, and the server's own.",
            registry=self.registry,
        )
        self.tick_duration_s = Histogram(
            "keyflock_tick_duration_seconds",
            "One pass over deadlines, flushes and closing rounds.",
            buckets=DURATIONS_S,
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, for ``/metrics``."""
        return generate_latest(self.registry)
