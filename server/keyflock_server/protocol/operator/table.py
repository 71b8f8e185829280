"""All calls of the operator API; the admin port serves exactly these."""

from typing import Final

from keyflock_server.protocol.operator import devices, events, populations, rounds, tasks
from keyflock_server.protocol.operator.call import AnyCall

OPERATOR_CALLS: Final[tuple[AnyCall, ...]] = (
    *populations.CALLS,
    *tasks.CALLS,
    *rounds.CALLS,
    *devices.CALLS,
    *events.CALLS,
)
