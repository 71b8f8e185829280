"""What a token says once it has been believed: the device that speaks, and the assignment it speaks of."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """One enrolled phone."""

    device: DeviceId
    population: PopulationName
    #: Of the token that it showed; grows with each refresh. Tokens from before generations are of 0.
    generation: int = 0
    #: When that token expires; None where no token was shown.
    expires_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """Everything a replica must know to judge a report, so that it validates one without a read."""

    assignment: AssignmentId
    device: DeviceId
    population: PopulationName
    task: TaskName
    round: RoundId
    model_version: ModelVersion
    #: Wire form of the ``CodecSpec`` that the delta must be encoded with.
    codec: dict[str, Any] = field(hash=False)
    seed: int
    #: Digest of the parameter layout that the delta must have.
    layout: bytes
    #: Aware UTC. Reports that come later find their round gone.
    expires_at: datetime
    #: On which the phone asked: its report's bytes are counted under it.
    network: str = "unmetered"
