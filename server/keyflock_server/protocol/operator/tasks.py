"""Operators' messages and calls about tasks."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.operator.call import (
    JSON,
    MAX_TASK_BYTES,
    TOML,
    NoBody,
    OperatorCall,
    Query,
    ReasonOrder,
    ReasonQuery,
)
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.roles import Role

TaskState = Literal["active", "paused", "cancelled", "finished"]


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
    #: What reports wait for that have arrived and are not acknowledged yet, or why an evaluate task opens no
    #: round; empty where nothing waits.
    waiting_reason: str = ""
    #: How far its ``[stop_when]`` is from ending it; empty without such a table.
    stopping: str = ""
    #: Description of the text on which its versions are checked before they become the newest.
    anchor_text: str = ""
    #: Whether its stored sums may hold so few phones that one's update can be inferred.
    is_unsafe_flush: bool = False
    #: The norm scale of its next round, in units of the parameters, by codec table.
    norm_scales: dict[str, float] = {}
    #: Why it is paused, and when it resumes by itself; null: when somebody resumes it.
    pause_reason: str = ""
    resumes_at: datetime | None = None
    #: Why it has ended.
    end_reason: str = ""
    #: When it was archived; null for one in the ordinary list.
    archived_at: datetime | None = None
    #: It grows with each change.
    revision: int = 0
    #: The task as it is now, by table and key; an open round has the values with which it opened.
    spec: dict[str, Any]


class PauseOrder(ReasonOrder, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pause, perhaps with its end."""

    #: When the task resumes by itself; left out, when somebody resumes it.
    until: Annotated[datetime, Meta(tz=True)] | None = None


class TaskChangeOrder(ReasonOrder, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New values of ``[round]`` for a task that runs; what is left out stays as it is."""

    goal: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    #: Null: four fifths of the goal.
    minimum: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType | None = UNSET
    over_selection: Annotated[float, Meta(ge=0.0, le=10.0)] | UnsetType = UNSET
    deadline_s: Annotated[float, Meta(gt=0.0, le=604_800.0)] | UnsetType = UNSET


class TaskEvent(Struct, frozen=True, kw_only=True):
    """Something that happened to a task."""

    at: datetime
    #: The action of an audit entry, for example ``task.pause``, or ``round.`` and the phase of its end.
    what: str
    #: Who did it; empty for the end of a round.
    operator: str = ""
    #: The operator's reason, or why a round has no result.
    detail: str = ""
    #: The number of the audit entry.
    audit: int | None = None
    #: The round, the reports in its sum, and the version that it made.
    round: str = ""
    reports: int = 0
    version: int | None = None


class TaskHistory(Struct, frozen=True, kw_only=True):
    """What happened to a task, newest first: its audit entries and the ends of its rounds."""

    items: list[TaskEvent]


class HistoryQuery(Query, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a task's history is wanted."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100


class TaskQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks a list has."""

    #: A name of the population.
    population: str | None = None
    state: TaskState | None = None
    kind: TaskKind | None = None
    #: Whether the list has those that are archived, and no others.
    archived: bool = False


class TaskList(Struct, frozen=True, kw_only=True):
    """A page of tasks, oldest first."""

    items: list[TaskView]
    #: Where the next page begins; null after the last one.
    next: str | None = None


TASKS: Final = OperatorCall(
    "tasks", "GET", "/admin/v1/tasks", Role.VIEWER, TaskQuery, NoBody, TaskList, "List tasks, oldest first."
)
CREATE_TASK: Final = OperatorCall(
    "create_task",
    "POST",
    "/admin/v1/tasks",
    Role.OPERATOR,
    ReasonQuery,
    bytes,
    TaskView,
    "Create the task that the body describes; its first round opens with the next pass.",
    status=201,
    is_creation=True,
    max_bytes=MAX_TASK_BYTES,
    media_types=(TOML, JSON),
)
TASK: Final = OperatorCall(
    "task", "GET", "/admin/v1/tasks/{task}", Role.VIEWER, Query, NoBody, TaskView, "Show a task."
)
PAUSE_TASK: Final = OperatorCall(
    "pause_task",
    "POST",
    "/admin/v1/tasks/{task}/pause",
    Role.OPERATOR,
    Query,
    PauseOrder,
    TaskView,
    "Assign no more work, perhaps until an instant; reports under way are still taken.",
    takes_if_match=True,
)
RESUME_TASK: Final = OperatorCall(
    "resume_task",
    "POST",
    "/admin/v1/tasks/{task}/resume",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    TaskView,
    "Assign work again.",
    takes_if_match=True,
)
CANCEL_TASK: Final = OperatorCall(
    "cancel_task",
    "POST",
    "/admin/v1/tasks/{task}/cancel",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    TaskView,
    "End a task for good; its open round is abandoned.",
    takes_if_match=True,
)
CHANGE_TASK: Final = OperatorCall(
    "change_task",
    "PATCH",
    "/admin/v1/tasks/{task}",
    Role.OPERATOR,
    Query,
    TaskChangeOrder,
    TaskView,
    "Change the goal, minimum, over-selection or deadline of a task's next rounds.",
    takes_if_match=True,
)
ARCHIVE_TASK: Final = OperatorCall(
    "archive_task",
    "POST",
    "/admin/v1/tasks/{task}/archive",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    TaskView,
    "Take a task that is over out of the ordinary list; nothing is deleted.",
    takes_if_match=True,
)
UNARCHIVE_TASK: Final = OperatorCall(
    "unarchive_task",
    "POST",
    "/admin/v1/tasks/{task}/unarchive",
    Role.OPERATOR,
    Query,
    ReasonOrder,
    TaskView,
    "Put an archived task back into the ordinary list.",
    takes_if_match=True,
)
TASK_HISTORY: Final = OperatorCall(
    "task_history",
    "GET",
    "/admin/v1/tasks/{task}/history",
    Role.VIEWER,
    HistoryQuery,
    NoBody,
    TaskHistory,
    "Show what happened to a task: who changed it and why, and how its rounds ended.",
)

CALLS: Final = (
    TASKS,
    CREATE_TASK,
    TASK,
    CHANGE_TASK,
    PAUSE_TASK,
    RESUME_TASK,
    CANCEL_TASK,
    ARCHIVE_TASK,
    UNARCHIVE_TASK,
    TASK_HISTORY,
)
