"""What a dry run says of a task that an operator would create: nothing is written."""

from typing import Final

from msgspec import Struct

from keyflock_server.protocol.operator.call import JSON, MAX_TASK_BYTES, TOML, OperatorCall, Query
from keyflock_server.protocol.roles import Role


class MatchingDevices(Struct, frozen=True, kw_only=True):
    """How many devices fit the task by what the server knows of them now."""

    #: Enrolled devices of the population, and how many of them fit.
    enrolled: int
    matching: int
    #: Devices that checked in within the last 24 hours; of those that never reported, only as many as pacing
    #: counts. And how many of them fit.
    active: int
    active_matching: int


class UploadBounds(Struct, frozen=True, kw_only=True):
    """The size of one phone's delta with one codec of the task."""

    #: The table of the task that names the codec: ``codec``, ``codec_by_network.metered`` and so on.
    table: str
    min_bytes: int
    #: Null where it depends on the delta.
    max_bytes: int | None


class TrafficForecast(Struct, frozen=True, kw_only=True):
    """What the task costs phones and the network."""

    #: The whole model, which a phone downloads that has no recent version.
    download_bytes: int
    uploads: list[UploadBounds]
    #: Phones that a round assigns.
    assigned_phones: int
    #: The most that a round's phones download; uploads, if no phone drops out and sizes are bounded.
    round_download_bytes: int
    round_upload_max_bytes: int | None


class ServerForecast(Struct, frozen=True, kw_only=True):
    """What the task costs the server."""

    #: The sums that each process holds while a round is open, without the reports that wait to be decoded.
    memory_bytes: int
    #: The sums on disk while a round is open and closes, for each process that counts reports.
    round_disk_bytes: int
    #: What each round with a result leaves: version and optimiser state; older ones are pruned.
    kept_bytes: int


class FillForecast(Struct, frozen=True, kw_only=True):
    """How a round fills, by the numbers that pacing uses."""

    #: Reports that close the round, and those that suffice at the deadline.
    goal: int
    minimum: int
    deadline_s: float
    #: Whether the population is so small that its phones meet.
    is_meeting: bool
    #: Eligible devices a day that pacing counts on.
    counted_devices: int
    #: Expected time until all slots are taken; null if there are too few devices.
    slots_taken_s: float | None
    #: What that means for rounds.
    meaning: str


class TaskForecast(Struct, frozen=True, kw_only=True):
    """Whether a task would be accepted, whom it would match, and what it would cost."""

    is_accepted: bool
    #: Why it would be refused; each names the table and the key that it is about.
    problems: list[str]
    #: How it disagrees with what there is: other tasks, its name, its population.
    conflicts: list[str]
    #: Null where the task cannot be read or its population is unknown.
    devices: MatchingDevices | None = None
    fill: FillForecast | None = None
    traffic: TrafficForecast | None = None
    server: ServerForecast | None = None
    #: What these numbers leave out.
    unknown: list[str] = []


FORECAST_TASK: Final = OperatorCall(
    "forecast_task",
    "POST",
    "/admin/v1/tasks/dry-run",
    Role.VIEWER,
    Query,
    bytes,
    TaskForecast,
    "Say whether a task would be accepted, whom it would match and what it would cost; nothing is written.",
    max_bytes=MAX_TASK_BYTES,
    media_types=(TOML, JSON),
)

CALLS: Final = (FORECAST_TASK,)
