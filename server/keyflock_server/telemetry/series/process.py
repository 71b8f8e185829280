"""Declared series about the process, its event loop, its store and its place among the replicas."""

from typing import Final

from keyflock_server.telemetry.series.calls import DURATIONS_S
from keyflock_server.telemetry.series.declaration import counter, gauge, histogram

READY: Final = gauge("keyflock_ready", "1 while phones should be sent here, 0 otherwise.")
STORE_AGE: Final = gauge(
    "keyflock_store_read_age_seconds", "Time since a pass last read everything that it needs from the store."
)
STORE_FAILURES: Final = counter(
    "keyflock_store_failures_total", "Passes that could not read the store and were tried again."
)
AUDIT_ENTRIES: Final = gauge(
    "keyflock_audit_entries", "Entries of the audit log: one for each change by an operator or a policy."
)
BACKUP_AGE: Final = gauge(
    "keyflock_newest_backup_age_seconds",
    "Age of the newest whole backup that `keyflock backup` has made; +Inf where there is none.",
)
IS_LEADER: Final = gauge("keyflock_is_leader", "1 if this process opens and closes rounds, 0 otherwise.")
PEERS: Final = gauge("keyflock_peers", "Other replicas of the same store that this process knows of.")
EVENT_LOOP_LAG: Final = histogram(
    "keyflock_event_loop_lag_seconds",
    "How much later than asked the event loop came back to the pass over deadlines.",
    DURATIONS_S,
)
EVENT_LOOP_TASKS: Final = gauge(
    "keyflock_event_loop_tasks",
    "Asynchronous tasks in the process: one for each request being answered, and the server's own.",
)
TICK_DURATION: Final = histogram(
    "keyflock_tick_duration_seconds", "One pass over deadlines, flushes and closing rounds.", DURATIONS_S
)
TICK_AGE: Final = gauge("keyflock_tick_age_seconds", "Time since the last pass ended.")
DESCRIPTOR_SHORTAGES: Final = counter(
    "keyflock_descriptor_shortages_total",
    "Passes in which no file could be opened: the process is at its limit; connections are reset.",
)

DECLARED: Final = (
    READY,
    STORE_AGE,
    STORE_FAILURES,
    AUDIT_ENTRIES,
    BACKUP_AGE,
    IS_LEADER,
    PEERS,
    EVENT_LOOP_LAG,
    EVENT_LOOP_TASKS,
    TICK_DURATION,
    TICK_AGE,
    DESCRIPTOR_SHORTAGES,
)

#: Series that the library adds where the system has ``/proc``.
OF_LIBRARY: Final = (
    counter("process_cpu_seconds_total", "Time that the process has used processors, in seconds."),
    gauge("process_resident_memory_bytes", "Memory that the process has in use."),
    gauge("process_virtual_memory_bytes", "Address space of the process."),
    gauge("process_start_time_seconds", "When the process started, in seconds since 1970."),
    gauge("process_open_fds", "Files and connections that are open."),
    gauge("process_max_fds", "How many may be open at most."),
)
