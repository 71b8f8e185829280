"""Operators' messages and calls about tasks."""

from datetime import datetime
from typing import Any, Final, Literal

from msgspec import Struct

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
    #: The task as it was written, by table and key.
    spec: dict[str, Any]


class TaskQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks a list has."""

    #: A name of the population.
    population: str | None = None
    state: TaskState | None = None
    kind: TaskKind | None = None
    #: Whether it is archived; left out, any.
    archived: bool | None = None


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
    ReasonOrder,
    TaskView,
    "Assign no more work; reports under way are still taken.",
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
)

CALLS: Final = (TASKS, CREATE_TASK, TASK, PAUSE_TASK, RESUME_TASK, CANCEL_TASK)
