"""Turns the coordinator's events into metrics and log lines for operators."""

from typing import Final

from keyflock_server.protocol.identifiers import PopulationName, TaskName
from keyflock_server.telemetry.log_throttle import LogThrottle
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

_log: Final = logger("keyflock.rounds")


class MetricsObserver:
    """Counts and logs the coordinator's events; satisfies its ``Observer``.

    Args:
        metrics: Counts every event.
        log_throttle: Limits how often the same failure is logged.
    """

    def __init__(self, metrics: Metrics, log_throttle: LogThrottle | None = None) -> None:
        self._metrics = metrics
        self._log_throttle = log_throttle or LogThrottle()

    def assigned(self, network: str, codec: str, *, is_repeated: bool) -> None:
        """A check-in was answered with an assignment: a new one, or one that the device has already."""
        self._metrics.check_ins.labels("repeated" if is_repeated else "assigned").inc()
        if not is_repeated:
            self._metrics.codecs.labels(network, codec).inc()

    def given_back(self, cause: str) -> None:
        """A device gave its assignment back."""
        self._metrics.failures.labels(cause).inc()

    def flushed(self, task: TaskName, reports: int, duration_s: float, interval_s: float) -> None:
        """A micro-batch was committed."""
        self._metrics.flush_reports.observe(reports)
        self._metrics.flush_duration_s.observe(duration_s)
        self._metrics.flush_interval_s.labels(task).set(interval_s)
        _log.debug("flushed", task=task, reports=reports, duration_s=round(duration_s, 4))

    def flush_failed(self, task: TaskName, error: Exception) -> None:
        """A micro-batch could not be committed; it will be tried again."""
        self._metrics.flush_failures.inc()
        self._failed("flush failed", error, task=task)

    def task_stuck(self, task: TaskName, error: Exception) -> None:
        """A task's round could not proceed; it will be tried again."""
        self._metrics.task_failures.labels(task).inc()
        self._failed("task stuck", error, task=task)

    def store_unreachable(self, error: Exception) -> None:
        """A pass could not read the store; it is tried again at the next."""
        self._metrics.store_failures.inc()
        self._failed("store unreachable", error)

    def verdict(self, task: TaskName, verdict: str, count: int) -> None:
        """A report got a verdict: it was refused, or clipped."""
        self._metrics.report_verdicts.labels(verdict).inc(count)
        _log.debug("verdict on a report", task=task, verdict=verdict, count=count)

    def unsafe_flush(self, task: TaskName, min_flush_clients: int) -> None:
        """A task was created whose stored sums may hold so few phones that one's update can be inferred."""
        _log.warning(
            "unsafe flush: one phone's update can be read out of what this task stores",
            task=task,
            min_flush_clients=min_flush_clients,
        )

    def quarantined(self, task: TaskName) -> None:
        """A device was quarantined, because too many of its reports were refused."""
        self._metrics.quarantines.inc()
        _log.info("device quarantined", task=task)

    def violations_withheld(self, task: TaskName, devices: int) -> None:
        """So many devices of a round were refused that it does not count as a violation."""
        _log.warning(
            "most reports of a round are refused: look at the task and the app", task=task, devices=devices
        )

    def housekeeping_failed(self, error: Exception) -> None:
        """Counts of verdicts could not be written, or quarantines not read; the next pass tries again."""
        self._failed("books not kept", error)

    def assignments_expired(self, task: TaskName, sequence: int, count: int, *, is_mostly: bool) -> None:
        """Assignments expired; an operator is warned once per round when half of its slots have."""
        self._metrics.assignments_expired.labels(task).inc(count)
        if is_mostly:
            _log.warning(
                "half of a round's slots were given to devices that said nothing",
                task=task,
                round=sequence,
            )

    def unproven_devices_deleted(self, devices: int) -> None:
        """Devices that never reported and did not come back were deleted."""
        _log.info("devices deleted that never reported", devices=devices)

    def round_opened(self, task: TaskName, sequence: int) -> None:
        """A round takes assignments."""
        self._metrics.rounds_opened.inc()
        _log.info("round opened", task=task, round=sequence)

    def round_ended(self, task: TaskName, sequence: int, phase: str, reports: int, duration_s: float) -> None:
        """A round is closed, abandoned or cancelled."""
        self._metrics.rounds.labels(phase).inc()
        self._metrics.round_duration_s.observe(duration_s)
        _log.info(
            "round ended",
            task=task,
            round=sequence,
            phase=phase,
            reports=reports,
            duration_s=round(duration_s, 3),
        )

    def round_held(self, task: TaskName, sequence: int, reason: str) -> None:
        """A round's version did not pass the checks; the reason holds only the server's own numbers."""
        self._metrics.rounds_held.inc()
        _log.warning("round held", task=task, round=sequence, detail=reason)

    def rounds_waiting(self, held: int) -> None:
        """The number of rounds that are held now, of all tasks, has changed."""
        self._metrics.held_rounds.set(held)

    def version_published(self, population: PopulationName, version: int) -> None:
        """A new model version is the newest."""
        _log.info("version published", population=population, version=version)

    def rolled_back(self, population: PopulationName, version: int, to: int) -> None:
        """A new version with the weights of an earlier one is the newest."""
        self._metrics.rollbacks.inc()
        _log.warning("population rolled back", population=population, version=version, to=to)

    def release_stepped(
        self, population: PopulationName, action: str, version: int, candidate: int | None, percent: int
    ) -> None:
        """A step of a population's release was taken."""
        self._metrics.release_steps.labels(action).inc()
        _log.info(
            "release stepped",
            population=population,
            action=action,
            version=version,
            candidate=candidate,
            percent=percent,
        )

    def release_policies_failed(self, error: Exception) -> None:
        """The steps of releases that are due could not be taken; they are tried again."""
        self._failed("releases stay as they are", error)

    def priors_published(self, population: PopulationName, phones: int) -> None:
        """A population's priors were published, from the reports of this many phones."""
        _log.info("priors published", population=population, phones=phones)

    def population_deleted(self, population: PopulationName) -> None:
        """The last rows of a deleted population are gone."""
        _log.info("population deleted", population=population)

    def blobs_marked(self) -> None:
        """Blobs from before there were markers are marked as this database's from now on."""
        _log.info("the blobs are marked as this database's from now on")

    def orphan_deleted(self, key: str, size_bytes: int, age_s: float) -> None:
        """A blob that no row points to was deleted."""
        _log.info("orphan deleted", blob=key, size_bytes=size_bytes, age_s=round(age_s))

    def _failed(self, what: str, error: Exception, **of: str) -> None:
        suppressed = self._log_throttle.suppressed_count(what, error, of.get("task", ""))
        if suppressed is not None:
            _log.error(what, **of, **({"repeated": suppressed} if suppressed else {}), exc_info=error)
