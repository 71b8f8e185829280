"""The messages of ``GET /v1/devices/me``: all that the server stores about a device, or about its user's.

Instants are text in UTC (RFC 3339), unlike anywhere else in the protocol: they are for the person who reads
them, and no phone acts on them. Digests that stand for users and installations are left out, because they say
nothing; whether there is one is said. So is the encrypted personal model, which ``GET /v1/heads`` gives.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, field

from keyflock_server.protocol.fields import Count, Message, Sha256
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, PopulationName, RoundId, TaskName

UtcText = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z\Z")]


class StoredViolation(Message, frozen=True, kw_only=True):
    """One round in which a report of the device was rejected."""

    at: UtcText
    round: RoundId
    #: Why the report was rejected.
    verdict: str


class StoredQuarantine(Message, frozen=True, kw_only=True):
    """The device's last quarantine, also when it is over."""

    since: UtcText
    until: UtcText
    reason: str
    #: ``policy`` or ``operator``.
    by: str
    #: How many there were, one soon after the other.
    count: Count


class StoredAssignment(Message, frozen=True, kw_only=True):
    """The device's assignment in one round. The report itself is not stored: it is in a sum."""

    assignment: AssignmentId
    task: TaskName
    round: RoundId
    #: ``assigned``, ``counted``, ``failed`` or ``expired``.
    state: str
    assigned_at: UtcText
    expires_at: UtcText | None = None
    counted_at: UtcText | None = None
    #: The round whose sum the report is in.
    counted_in: RoundId | None = None
    #: The report's weight in that sum.
    weight: float = 0.0
    #: The steps that the phone went through.
    session_shape: str = ""
    #: SHA-256 of the report's bytes, by which a repeated upload is known.
    report_digest: Sha256 | None = None


class StoredRevocation(Message, frozen=True, kw_only=True):
    """Tokens of the device that are invalid before they expire."""

    #: Those of lower generations at once, those of this one from then on.
    generation: Count
    effective_at: UtcText
    written_at: UtcText
    #: When this is deleted.
    until: UtcText


class StoredLimits(Message, frozen=True, kw_only=True):
    """What outlives a forgotten device of the same user or installation, until it is deleted."""

    until: UtcText
    quarantined_until: UtcText | None = None
    last_contributed_at: UtcText | None = None
    #: Counted reports by task.
    participations: dict[TaskName, Count] = field(default_factory=dict)


class StoredDecision(Message, frozen=True, kw_only=True):
    """What an operator decided about the device: an entry of the audit log, without the operator."""

    at: UtcText
    action: str
    reason: str


class StoredEnrolment(Message, frozen=True, kw_only=True):
    """What the device said when it enrolled, and what was made of it."""

    app_build: Count
    locale: str
    tier: Count = 0
    tags: tuple[str, ...] = ()
    enrolled_at: UtcText
    last_seen_at: UtcText
    #: Whether a digest of its user is stored, and one of the installation that the platform attested.
    has_user: bool = False
    is_attested: bool = False
    #: Whether it has ever stored a personal model.
    has_stored_model: bool = False
    #: The number of its newest token.
    token_generation: Count = 0


class StoredActivity(Message, frozen=True, kw_only=True):
    """What the device contributed, and when it was silent."""

    last_contributed_at: UtcText | None = None
    #: When its last assignment ended without a message from it, and how many in a row did.
    last_silent_at: UtcText | None = None
    silences: Count = 0
    #: When its contributions, silences or quarantine were last written.
    changed_at: UtcText | None = None
    #: Counted reports by task, as far as their assignments are stored.
    participations: dict[TaskName, Count] = field(default_factory=dict)
    #: Counted reports by task from before it enrolled again.
    past_participations: dict[TaskName, Count] = field(default_factory=dict)


class StoredStanding(Message, frozen=True, kw_only=True):
    """What is held against the device."""

    quarantined_until: UtcText | None = None
    quarantine: StoredQuarantine | None = None
    #: Since the last quarantine.
    violations: tuple[StoredViolation, ...] = ()


class StoredDevice(Message, frozen=True, kw_only=True):
    """Everything that the database holds about one device."""

    device: DeviceId
    population: PopulationName
    enrolment: StoredEnrolment
    activity: StoredActivity = StoredActivity()
    standing: StoredStanding = StoredStanding()
    #: Newest first.
    assignments: tuple[StoredAssignment, ...] = ()
    #: How many older ones are stored beside these.
    further_assignments: Count = 0
    revocation: StoredRevocation | None = None
    limits: tuple[StoredLimits, ...] = ()
    #: Newest first.
    decisions: tuple[StoredDecision, ...] = ()


class ModelOwner(StrEnum):
    """Whose a stored personal model is."""

    USER = "user"
    #: A device's that named no user when it was stored.
    DEVICE = "device"


class StoredModel(Message, frozen=True, kw_only=True):
    """A stored personal model; the device gets its content by ``GET /v1/heads/{population}``."""

    population: PopulationName
    owner: ModelOwner
    #: Its size as it is stored, encrypted.
    size_bytes: Count
    updated_at: UtcText


class StoredData(Message, frozen=True, kw_only=True):
    """``GET /v1/devices/me``: what is stored about the device, or (``?scope=user``) about all of its user."""

    devices: tuple[StoredDevice, ...]
    personal_models: tuple[StoredModel, ...] = ()
