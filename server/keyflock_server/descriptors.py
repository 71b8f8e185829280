"""The process's limited file descriptors: every connection, database file and blob needs one.

A process at its limit cannot accept connections, and the system resets new ones without a reason. So the soft
limit is raised to the hard one at the start, phones' connections get what is left after a reserve, and every
pass checks that a file can still be opened.
"""

import contextlib
import os
import resource
from typing import Final

from keyflock_server.telemetry.log_throttle import LogThrottle
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics

#: Descriptors for the database, blobs, the log, listening sockets, refused connections, and libraries.
RESERVE: Final = 192
#: Used in place of a hard limit of "infinity".
_MAX_LIMIT: Final = 1_048_576
#: Default maximum of phones' connections; each takes about 20 kB of memory.
_DEFAULT_MAX_CONNECTIONS: Final = 10_000

_log: Final = logger("keyflock.server")


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it.

    Only a program may call this, never a library, because it changes the whole process.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_LIMIT if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return descriptor_limit()
    with contextlib.suppress(ValueError, OSError):  # some systems have a lower limit for all processes
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """Return how many files and connections the process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_LIMIT if soft == resource.RLIM_INFINITY else soft


def max_operator_connections(wanted: int, limit: int) -> int:
    """Return how many connections operators may have open at once: a quarter of the limit at most."""
    return max(1, min(wanted, limit // 4))


def max_phone_connections(wanted: int | None, operators: int, limit: int) -> int:
    """Return how many connections phones may have open at once.

    Args:
        wanted: The operator's setting; None: what is left, up to 10,000.
        operators: Maximum number of connections on the operators' port.
        limit: The process's limit of open files.
    Guarantees:
        The result is at least one; a larger setting is reduced to the limit, and the log warns.
    """
    reserved = min(RESERVE + operators, limit // 2)
    allowed = max(1, limit - reserved)
    if wanted is None:
        return min(allowed, _DEFAULT_MAX_CONNECTIONS)
    if wanted > allowed:
        _log.warning(
            "the limit of open files is too low for max_connections: raise it (ulimit -n, LimitNOFILE)",
            limit=limit,
            reserved=reserved,
            wanted=wanted,
            max_connections=allowed,
        )
    return min(wanted, allowed)


class DescriptorWatch:
    """Warns when no file can be opened any more, because the system would only reset connections.

    Args:
        metrics: Counts such passes.
        log_throttle: Limits how often the warning is logged.
    """

    def __init__(self, metrics: Metrics, log_throttle: LogThrottle | None = None) -> None:
        self._shortages = metrics.descriptor_shortages
        self._log_throttle = log_throttle or LogThrottle()

    async def start(self) -> None:
        """Do nothing; there is nothing to resume."""

    async def tick(self) -> None:
        """Check that a file can be opened now."""
        try:
            with open(os.devnull, "rb"):  # noqa: ASYNC230, PTH123 - no disk is touched
                pass
        except OSError as error:
            self._shortages.inc()
            if (suppressed := self._log_throttle.suppressed_count("descriptors", error)) is not None:
                _log.error(
                    "no file can be opened: connections are reset; raise the limit (ulimit -n, LimitNOFILE)",
                    limit=descriptor_limit(),
                    repeated=suppressed,
                    exc_info=error,
                )

    async def stop(self) -> None:
        """Do nothing; there is nothing to finish."""
