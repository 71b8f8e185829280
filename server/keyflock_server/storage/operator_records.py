"""Rows of the operator plane as immutable values; ``tables`` declares how they are stored."""

from dataclasses import dataclass, field
from datetime import datetime

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.roles import Role
from keyflock_server.releases.release_state import ReleaseAction


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """A row of a population's release history; the newest one is the population's release state."""

    population: PopulationName
    #: 0 for the first; there are no gaps.
    sequence: int
    at: datetime
    action: ReleaseAction
    #: The version that is served to everybody.
    version: ModelVersion
    #: The version that is served to devices whose bucket is below ``percent``; None without one.
    candidate: ModelVersion | None = None
    percent: int = 100
    operator: str
    reason: str
    #: What the decision rests on, as JSON; None for one by hand.
    evidence_json: str | None = None

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        """Return the versions that keyboards may be served while this row is the newest."""
        return (self.version,) if self.candidate is None else (self.version, self.candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """The summed metrics of a closed ``evaluate`` round."""

    round_id: RoundId
    population: PopulationName
    task: TaskName
    candidate: ModelVersion
    baseline: ModelVersion
    #: Number of counted reports.
    phones: int
    sums_json: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiTokenRecord:
    """An operator's token; its secret is not stored."""

    id: str
    #: The name by which the audit log knows its bearer.
    name: str
    role: Role
    #: SHA-256 of the secret.
    digest: bytes = field(repr=False)
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """An operator's key for one creation, and the answer that a repetition gets."""

    operator: str
    key: str
    #: The name of the call.
    call: str
    #: SHA-256 of the request: the same key with another request is refused.
    request_digest: bytes
    #: The status of the answer; 0 while the creation is under way.
    status: int = 0
    body: bytes = field(default=b"", repr=False)
    created_at: datetime

    @property
    def is_complete(self) -> bool:
        """Return whether the creation has been answered."""
        return self.status != 0
