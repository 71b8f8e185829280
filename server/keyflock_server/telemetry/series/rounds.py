"""Declared series about tasks, rounds, versions, and reports on their way into a sum."""

from typing import Final

from keyflock_server.rounds.round import FINAL_PHASES
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.telemetry.series.calls import DURATIONS_S
from keyflock_server.telemetry.series.declaration import (
    POPULATION,
    TASK,
    closed,
    counter,
    gauge,
    histogram,
)

_ROUNDS_S: Final = (1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0, 21_600.0, 86_400.0)
_FLUSH_REPORTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048)

TASKS: Final = gauge(
    "keyflock_tasks",
    "Tasks that are not over, or whose last round is not, by status.",
    closed("status", TaskStatus),
)
ROUNDS: Final = counter(
    "keyflock_rounds_total",
    "Rounds that ended, by phase: closed (made a version), carried, abandoned, cancelled or discarded.",
    closed("phase", sorted(FINAL_PHASES)),
)
ROUNDS_OPENED: Final = counter("keyflock_rounds_opened_total", "Rounds that began to take assignments.")
ROUND_AGE: Final = gauge(
    "keyflock_round_age_seconds", "Time since a task's round was opened, while it is not over.", TASK
)
ROUND_AGE_RATIO: Final = gauge(
    "keyflock_round_age_ratio",
    "Age of a task's round as a share of the time until its deadline; not of an asynchronous or held one.",
    TASK,
)
ROUND_DURATION: Final = histogram(
    "keyflock_round_duration_seconds", "From the opening of a round to its end.", _ROUNDS_S
)
ROUNDS_HELD: Final = counter("keyflock_rounds_held_total", "Rounds whose version did not pass the checks.")
HELD_ROUNDS: Final = gauge(
    "keyflock_held_rounds", "Rounds that wait for an operator to accept or discard them."
)
TASK_FAILURES: Final = counter(
    "keyflock_task_failures_total", "Passes in which a task's round could not go on, by task.", TASK
)
MODEL_VERSION: Final = gauge(
    "keyflock_model_version", "The newest version, which rounds train from, by population.", POPULATION
)
VERSION_AGE: Final = gauge(
    "keyflock_model_version_age_seconds",
    "Time since a population's newest version was published, while an active task trains it.",
    POPULATION,
)
ROLLBACKS: Final = counter(
    "keyflock_rollbacks_total", "Populations that were rolled back to an earlier version."
)
PENDING_REPORTS: Final = gauge(
    "keyflock_pending_reports",
    "Reports that arrived in this process and are not acknowledged yet, by task.",
    TASK,
)
PENDING_AGE: Final = gauge(
    "keyflock_pending_report_age_seconds",
    "Time since the oldest of them arrived, in this process, by task; 0 where none waits.",
    TASK,
)
FLUSH_REPORTS: Final = histogram(
    "keyflock_flush_reports", "Reports in one committed micro-batch.", _FLUSH_REPORTS
)
FLUSH_DURATION: Final = histogram(
    "keyflock_flush_duration_seconds", "From the start of a flush to its commit.", DURATIONS_S
)
FLUSH_INTERVAL: Final = gauge(
    "keyflock_flush_interval_seconds",
    "From the start of a task's last flush to that of the next one, under load.",
    TASK,
)
FLUSH_FAILURES: Final = counter(
    "keyflock_flush_failures_total", "Micro-batches that could not be committed and were tried again."
)

DECLARED: Final = (
    TASKS,
    ROUNDS,
    ROUNDS_OPENED,
    ROUND_AGE,
    ROUND_AGE_RATIO,
    ROUND_DURATION,
    ROUNDS_HELD,
    HELD_ROUNDS,
    TASK_FAILURES,
    MODEL_VERSION,
    VERSION_AGE,
    ROLLBACKS,
    PENDING_REPORTS,
    PENDING_AGE,
    FLUSH_REPORTS,
    FLUSH_DURATION,
    FLUSH_INTERVAL,
    FLUSH_FAILURES,
)
