"""The contents of verified tokens: a device's identity, and the claims of an assignment."""

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
    """The identity of an enrolled phone."""

    device: DeviceId
    population: PopulationName
    #: The generation of its token, which grows with each refresh. Tokens without a generation have 0.
    generation: int = 0
    #: When that token expires; None if the identity does not come from a token.
    expires_at: datetime | None = field(default=None, compare=False)
    #: Whether the fields below are known: tokens of earlier releases do not carry them.
    is_described: bool = False
    #: How strong the phone said it is when the token was issued: 0 unknown to 3 high.
    tier: int = 0
    #: The groups in which the app had put the device then, in order.
    tags: tuple[str, ...] = ()
    #: When a task had last counted a report of the device then; None if none had. Newer ones may exist.
    last_contributed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """All that a replica needs to validate a report without a read from the store."""

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
    #: Aware UTC. Later reports are refused with ``round_gone``.
    expires_at: datetime
    #: The network on which the phone checked in; metrics count its report's bytes under it.
    network: str = "unmetered"
