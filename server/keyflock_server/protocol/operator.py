"""The messages of the admin port, as JSON with these field names.

Unlike the SDK's messages these may grow with every release; instants are RFC 3339 in UTC.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from keyflock_server.protocol.fields import Name


class PopulationView(Struct, frozen=True, kw_only=True):
    """A population: all phones that share one model."""

    name: str
    #: Its id, which never changes: metrics and log lines have it.
    id: str = ""
    #: Names that it had before, by which phones and operators still mean it.
    former_names: list[str] = []
    #: The newest model version.
    model_version: int
    parameter_count: int
    vocabulary_size: int
    #: Number of devices that are enrolled now.
    devices: int
    #: Description of the text on which versions are checked before they become the newest.
    anchor_text: str = ""
    #: Loss on the anchor text of the version that an operator last chose, in nats per word.
    anchor_loss_chosen: float | None = None
    #: Results of personalize rounds: prior, candidates with their gains, the best head.
    personalisation: dict[str, Any] | None = None


class TaskView(Struct, frozen=True, kw_only=True):
    """A task, its state, and its progress."""

    #: How operators name it: the newest task of a name by the name, an earlier one with a number, ``name~1``.
    name: str
    #: Its id, which is never used twice: its rounds, metrics and log lines have it.
    id: str = ""
    population: str
    #: active, paused, cancelled or finished.
    state: str
    created_at: datetime
    rounds_committed: int
    rounds_abandoned: int
    #: Number of missed rounds whose reports were carried into the next round.
    rounds_carried: int = 0
    max_rounds: int | None
    #: The round that waits for ``accept`` or ``discard``; until then the task assigns no work.
    held_round: str | None = None
    #: What reports wait for that have arrived and are not acknowledged yet; empty where none waits.
    waiting_reason: str = ""
    #: Description of the text on which its versions are checked before they become the newest.
    anchor_text: str = ""
    #: Whether its stored sums may hold so few phones that one's update can be inferred.
    is_unsafe_flush: bool = False
    #: The norm scale of its next round, in units of the parameters, by codec table.
    norm_scales: dict[str, float] = {}
    #: The task as it was written, by table and key.
    spec: dict[str, Any]


class RoundView(Struct, frozen=True, kw_only=True):
    """A round: its present state, or how it ended."""

    id: str
    task: str
    sequence: int
    #: The round's state in the state table of rounds.
    phase: str
    #: The version that phones train from.
    model_version: int
    goal: int
    minimum: int
    #: Number of assignments made.
    assigned: int
    #: Number of reports that are durably in the aggregate.
    counted: int
    #: Number of reports carried from missed rounds, with which its aggregate began.
    carried: int = 0
    #: Sum of the reports' weights.
    weight: float
    #: Number of assignments that phones returned.
    failed: int = 0
    #: Number of assignments that expired without a word from their devices.
    expired: int = 0
    opened_at: datetime
    deadline_at: datetime
    closed_at: datetime | None = None
    #: The version that it made, if it was committed.
    result_version: int | None = None
    #: Why it has no result, or why it is held.
    detail: str = ""
    #: What reports wait for that have arrived and are not acknowledged yet; empty where none waits.
    waiting_reason: str = ""
    #: Measurements of the version that it made; for a personalize round, means over its phones.
    figures: dict[str, float] | None = None
    #: For a train round: the text on which its version is checked before it becomes the newest, in words.
    anchor_text: str = ""
    #: Verdicts on its reports: refused uploads by cause, and clipped ones.
    verdicts: dict[str, int] = {}
    #: Whether its stored sums may hold so few phones that one's update can be inferred.
    is_unsafe_flush: bool = False
    #: The norm scale for its deltas, in units of the parameters, by codec table.
    norm_scales: dict[str, float] = {}


class StrikeView(Struct, frozen=True, kw_only=True):
    """One round in which a device's report was refused."""

    at: datetime
    round: str
    verdict: str


class DeviceView(Struct, frozen=True, kw_only=True):
    """A device and its violations; nothing about the person."""

    id: str
    population: str
    app_build: int
    locale: str
    enrolled_at: datetime
    last_seen_at: datetime
    last_contributed_at: datetime | None = None
    #: Number of assignments in a row that expired; each beyond the first halves the chance of another one.
    silences: int = 0
    is_quarantined: bool = False
    #: End of the last quarantine, also when it is over.
    quarantined_until: datetime | None = None
    #: The reason of the last quarantine.
    reason: str = ""
    #: Who quarantined it: policy or operator.
    quarantined_by: str = ""
    quarantines: int = 0
    #: Refused reports that may yet lead to a quarantine, oldest first.
    strikes: list[StrikeView] = []


class QuarantineOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/devices/{device}/quarantine``."""

    #: The operator's reason, for later readers. It must hold no user text.
    reason: Annotated[str, Meta(min_length=1, max_length=300)]
    days: Annotated[float, Meta(gt=0.0, le=365.0)] = 365.0


class DecisionOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/rounds/{round}/accept`` and ``…/discard``."""

    #: The operator's reason, for later readers. It must hold no user text.
    reason: Annotated[str, Meta(min_length=1, max_length=300)]


class RollbackOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/rollback``."""

    #: The version whose weights are to be the newest again.
    to: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    #: The operator's reason, for later readers. It must hold no user text.
    reason: Annotated[str, Meta(min_length=1, max_length=300)]


class RenameOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/rename``."""

    #: The population's name from now on.
    to: Name


class DeletionOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/delete``."""

    #: The population's name as in the address, typed again.
    confirm: Name


class PopulationDeleted(Struct, frozen=True, kw_only=True):
    """A population is gone."""

    name: str
    id: str
    #: Whether its rows and the bytes of its personal models are gone too; else the server goes on deleting.
    is_complete: bool


class DeviceList(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/populations/{population}/devices``: at most 1,000 devices."""

    devices: list[DeviceView]
    #: Number of devices that are enrolled in the population.
    total: int


class CohortPreview(Struct, frozen=True, kw_only=True):
    """How many devices of a population a cohort expression matches."""

    population: str
    #: The expression, as it was parsed.
    cohort: str
    #: Number of enrolled devices, and how many of them are in the cohort.
    enrolled: int
    matching: int
    #: Number of devices that checked in within the last 24 hours, and how many of them are in the cohort; of
    #: devices that never reported, only as many are counted as pacing counts.
    active: int
    active_matching: int


class CohortQuestion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``POST /admin/v1/populations/{population}/cohort-preview``."""

    #: A cohort expression, as in ``[eligibility] cohort`` of a task.
    cohort: str


class PopulationList(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/populations``: all populations."""

    populations: list[PopulationView]


class TaskList(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/tasks``: all tasks."""

    tasks: list[TaskView]


class RoundList(Struct, frozen=True, kw_only=True):
    """``GET /admin/v1/tasks/{name}/rounds``: the task's rounds, oldest first."""

    rounds: list[RoundView]
