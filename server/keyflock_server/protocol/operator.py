"""What an operator sees: the answers of the admin port, as JSON with these field names.

Unlike the SDK's messages these may grow with every release; instants are RFC 3339 in UTC.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct


class PopulationView(Struct, frozen=True, kw_only=True):
    """All phones that share one model."""

    name: str
    #: The newest version.
    model_version: int
    parameter_count: int
    vocabulary_size: int
    #: Devices enrolled now.
    devices: int
    #: What versions are checked on before they become the newest, in words.
    anchor_text: str = ""
    #: Nats a word on the anchor text, of the version that a person last chose.
    anchor_loss_chosen: float | None = None
    #: What personalize rounds have found: prior, candidates with their gains, the best head.
    personalisation: dict[str, Any] | None = None


class TaskView(Struct, frozen=True, kw_only=True):
    """A task, its state, and how far it has come."""

    name: str
    population: str
    #: active, paused, cancelled or finished.
    state: str
    created_at: datetime
    rounds_committed: int
    rounds_abandoned: int
    #: Missed rounds whose reports began the next.
    rounds_carried: int = 0
    max_rounds: int | None
    #: The round that waits for ``accept`` or ``discard``; until then the task gives out no work.
    held_round: str | None = None
    #: What its versions are checked on before they become the newest, in words.
    anchor_text: str = ""
    #: Whether its stored sums may hold so few phones that one's update can be told.
    is_unsafe_flush: bool = False
    #: What its next round measures lengths by, in units of the parameters, by codec table.
    norm_scales: dict[str, float] = {}
    #: The task as it was written, by table and key.
    spec: dict[str, Any]


class RoundView(Struct, frozen=True, kw_only=True):
    """A round: where it stands or how it ended."""

    id: str
    task: str
    sequence: int
    #: Where in the state table of rounds it is.
    phase: str
    #: The version that phones train from.
    model_version: int
    goal: int
    minimum: int
    #: Assignments given out.
    assigned: int
    #: Reports in the aggregate, durably.
    counted: int
    #: Reports of missed rounds that its aggregate began with.
    carried: int = 0
    #: Sum of the reports' weights.
    weight: float
    #: Assignments that phones gave back.
    failed: int = 0
    #: Assignments that ran out of time with nothing heard of their devices.
    expired: int = 0
    opened_at: datetime
    deadline_at: datetime
    closed_at: datetime | None = None
    #: The version it made, when it was committed.
    result_version: int | None = None
    #: Why it came to no result, or is held.
    detail: str = ""
    #: What was measured of the version that it made; of a personalize round, means over its phones.
    figures: dict[str, float] | None = None
    #: Of a train round: what its version is checked on before it becomes the newest, in words.
    anchor_text: str = ""
    #: What was said of its reports: refused uploads by cause, and what was clipped.
    verdicts: dict[str, int] = {}
    #: Whether its stored sums may hold so few phones that one's update can be told.
    is_unsafe_flush: bool = False
    #: What it measures the lengths of deltas by, in units of the parameters, by codec table.
    norm_scales: dict[str, float] = {}


class StrikeView(Struct, frozen=True, kw_only=True):
    """One round in which a device's report was refused."""

    at: datetime
    round: str
    verdict: str


class DeviceView(Struct, frozen=True, kw_only=True):
    """A device and what is held against it; nothing of who the person is."""

    id: str
    population: str
    app_build: int
    locale: str
    enrolled_at: datetime
    last_seen_at: datetime
    last_contributed_at: datetime | None = None
    #: Assignments in a row that ran out of time; each beyond the first halves the chance of another.
    silences: int = 0
    is_quarantined: bool = False
    #: Of the last quarantine, also when it is over.
    quarantined_until: datetime | None = None
    #: Why, in words.
    reason: str = ""
    #: policy or operator.
    quarantined_by: str = ""
    quarantines: int = 0
    #: Refused reports that may yet lead to a quarantine, oldest first.
    strikes: list[StrikeView] = []


class QuarantineOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/devices/{device}/quarantine``."""

    #: For whoever reads it later. No user text.
    reason: Annotated[str, Meta(min_length=1, max_length=300)]
    days: Annotated[float, Meta(gt=0.0, le=365.0)] = 365.0


class DecisionOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/rounds/{round}/accept`` and ``…/discard``."""

    #: For whoever reads it later. No user text.
    reason: Annotated[str, Meta(min_length=1, max_length=300)]


class RollbackOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/rollback``."""

    #: The version whose weights are to be the newest again.
    to: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    #: For whoever reads it later. No user text.
    reason: Annotated[str, Meta(min_length=1, max_length=300)]


class Devices(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/populations/{population}/devices``: at most 1,000."""

    devices: list[DeviceView]
    #: Enrolled in the population.
    total: int


class CohortPreview(Struct, frozen=True, kw_only=True):
    """How many devices of a population an expression fits."""

    population: str
    #: The expression as it was understood.
    cohort: str
    #: Devices enrolled, and of these in the cohort.
    enrolled: int
    matching: int
    #: Devices that checked in within the last 24 hours, and of these in the cohort; of those that never
    #: reported no more than pacing counts.
    active: int
    active_matching: int


class CohortQuestion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/cohort-preview``."""

    #: As ``[eligibility] cohort`` of a task.
    cohort: str


class Populations(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/populations``."""

    populations: list[PopulationView]


class Tasks(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/tasks``."""

    tasks: list[TaskView]


class Rounds(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/tasks/{name}/rounds``, oldest first."""

    rounds: list[RoundView]
