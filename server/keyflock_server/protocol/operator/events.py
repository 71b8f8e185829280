"""Operators' live events: what happens to rounds, tasks, versions and releases, as a stream."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query
from keyflock_server.protocol.roles import Role

EVENT_STREAM: Final = "text/event-stream"


class EventKind(StrEnum):
    """The kinds of live events."""

    ROUND_OPENED = "round_opened"
    #: A round's version did not pass the checks and waits for an operator.
    ROUND_HELD = "round_held"
    ROUND_ENDED = "round_ended"
    VERSION_PUBLISHED = "version_published"
    #: A task has closed its last round.
    TASK_FINISHED = "task_finished"
    #: An entry was appended to the audit log: an operator, a policy or the gate has changed something.
    CHANGED = "changed"
    #: A device was quarantined by its task's policy.
    DEVICE_QUARANTINED = "device_quarantined"
    #: Something went wrong; ``alarm`` says what.
    ALARM = "alarm"
    #: Events before this one were lost: read the state anew, then go on from here.
    GAP = "gap"
    #: The reader was too slow and is cut off here: connect again, with the last id.
    DROPPED = "dropped"


class Alarm(StrEnum):
    """What went wrong in a server process; the log has the details."""

    TASK_STUCK = "task_stuck"
    FLUSH_FAILED = "flush_failed"
    STORE_UNREACHABLE = "store_unreachable"
    HOUSEKEEPING_FAILED = "housekeeping_failed"
    #: Most reports of a round were rejected.
    REPORTS_REJECTED = "reports_rejected"
    #: Half of a round's slots were given to devices that said nothing.
    DEVICES_SILENT = "devices_silent"


class LiveEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event: numbers, names and closed lists, and nothing that a phone has sent."""

    kind: EventKind
    at: datetime
    #: The population's name; empty for what concerns all.
    population: str = ""
    #: How operators name the task.
    task: str = ""
    #: The round's id.
    round: str = ""
    #: The round's state in the state table of rounds.
    phase: str = ""
    #: Number of reports in the round's sum.
    reports: int = 0
    #: The new model version.
    version: int | None = None
    alarm: Alarm | None = None
    #: An audit entry's sequence number; who has changed what; the kind and the name of the subject.
    audit: int = 0
    operator: str = ""
    action: str = ""
    subject_kind: str = ""
    subject: str = ""
    #: Whether it happened in the process that tells it, and no other process tells it.
    is_of_this_process: bool = False


class EventQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``GET /admin/v1/events``: which events are wanted."""

    #: Only events of this population, by any of its names, and those that concern all.
    population: Annotated[str, Meta(max_length=128)] = ""


EVENTS: Final = OperatorCall(
    "events",
    "GET",
    "/admin/v1/events",
    Role.VIEWER,
    EventQuery,
    NoBody,
    LiveEvent,
    "Stream what happens from now on, or after the event whose id the header Last-Event-ID has.",
    answer_media_type=EVENT_STREAM,
)

CALLS: Final = (EVENTS,)
