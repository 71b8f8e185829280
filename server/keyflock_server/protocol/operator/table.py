"""All calls of the operator API; the admin port serves exactly these."""

from typing import Final

from keyflock_server.protocol.operator import (
    audit,
    devices,
    documentation,
    events,
    forecasts,
    personal_models,
    populations,
    releases,
    rounds,
    tasks,
    tokens,
    versions,
)
from keyflock_server.protocol.operator.call import AnyCall

OPERATOR_CALLS: Final[tuple[AnyCall, ...]] = (
    *populations.CALLS,
    *tasks.CALLS,
    *forecasts.CALLS,
    *rounds.CALLS,
    *versions.CALLS,
    *devices.CALLS,
    *releases.CALLS,
    *audit.CALLS,
    *events.CALLS,
    *tokens.CALLS,
    *personal_models.CALLS,
    *documentation.CALLS,
)
