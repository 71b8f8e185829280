"""The process's file descriptors: every connection, database file and blob holds one, and there is a limit.

A process at its limit cannot accept, and the system resets those who come: nobody is told why. So the soft
limit is raised to the hard one at the start, phones' connections get what is left after a reserve, and a
probe at every pass says so when there is none left after all.
"""

import contextlib
import os
import resource
from typing import Final

from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.repeats import Repeats

#: For the database, blobs, the log, sockets that listen, connections that linger, and what libraries open.
RESERVE: Final = 192
#: A hard limit of "infinity" is taken for this.
_MAX_LIMIT: Final = 1_048_576
#: Phones' connections, unless the operator says another number; each holds about 20 kB of memory.
_DEFAULT_MAX_CONNECTIONS: Final = 10_000

_log: Final = logger("keyflock.server")


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, and return it.

    Whoever owns the process decides that: a program, never a library.
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


def operators_connections(wanted: int, limit: int) -> int:
    """Return how many connections operators may have open at once: a quarter of the limit at most."""
    return max(1, min(wanted, limit // 4))


def phones_connections(wanted: int | None, operators: int, limit: int) -> int:
    """Return how many connections phones may have open at once.

    Args:
        wanted: As the operator says; None: what is left, up to 10,000.
        operators: Connections of operators' port.
        limit: The process's limit of open files.
    Guarantees:
        At least one; what is wanted beyond the limit is cut, and the log warns.
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
    """Says when no file can be opened any more, which the system itself does by resetting connections.

    Args:
        metrics: Where such passes are counted.
        repeats: Says which are told.
    """

    def __init__(self, metrics: Metrics, repeats: Repeats | None = None) -> None:
        self._shortages = metrics.descriptor_shortages
        self._repeats = repeats or Repeats()

    async def start(self) -> None:
        """There is nothing to resume."""

    async def tick(self) -> None:
        """Try whether a file could be opened now."""
        try:
            with open(os.devnull, "rb"):  # noqa: ASYNC230, PTH123 - no disk is touched
                pass
        except OSError as error:
            self._shortages.inc()
            if (untold := self._repeats.untold("descriptors", error)) is not None:
                _log.error(
                    "no file can be opened: connections are reset; raise the limit (ulimit -n, LimitNOFILE)",
                    limit=descriptor_limit(),
                    repeated=untold,
                    exc_info=error,
                )

    async def stop(self) -> None:
        """There is nothing to finish."""
