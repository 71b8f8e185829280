"""Answers operators' calls about tasks."""

from typing import Any

from keyflock_server.coordinator.operator_lists import OperatorLists
from keyflock_server.coordinator.task_histories import TaskHistories
from keyflock_server.coordinator.task_service import TaskService
from keyflock_server.http.endpoint_group import with_header
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.http.operators.task_bodies import task_in
from keyflock_server.http.responses import JSON
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.operator.call import NoBody, Query, ReasonOrder, ReasonQuery
from keyflock_server.protocol.operator.tasks import (
    ARCHIVE_TASK,
    CANCEL_TASK,
    CHANGE_TASK,
    CREATE_TASK,
    PAUSE_TASK,
    RESUME_TASK,
    TASK,
    TASK_HISTORY,
    TASKS,
    UNARCHIVE_TASK,
    HistoryQuery,
    PauseOrder,
    TaskChangeOrder,
    TaskHistory,
    TaskList,
    TaskQuery,
    TaskView,
)
from keyflock_server.rounds.task import TaskStatus
from keyflock_server.rounds.task_changes import CHANGEABLE
from keyflock_server.storage.interfaces.listings import TaskPlace


class TaskResource:
    """The handlers of the calls about tasks.

    Args:
        service: Creates, changes and shows tasks.
        lists: Lists them.
        histories: Shows what happened to them.
    """

    def __init__(self, service: TaskService, lists: OperatorLists, histories: TaskHistories) -> None:
        self._histories = histories
        self._service = service
        self._lists = lists

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(TASKS, self._list)
        handlers.add(CREATE_TASK, self._create)
        handlers.add(TASK, self._get)
        handlers.add(CHANGE_TASK, self._change, revision=self._revision)
        handlers.add(PAUSE_TASK, self._pause, revision=self._revision)
        handlers.add(RESUME_TASK, self._resume, revision=self._revision)
        handlers.add(CANCEL_TASK, self._cancel, revision=self._revision)
        handlers.add(ARCHIVE_TASK, self._archive, revision=self._revision)
        handlers.add(UNARCHIVE_TASK, self._unarchive, revision=self._revision)
        handlers.add(TASK_HISTORY, self._history)

    async def _list(self, request: OperatorRequest[TaskQuery, NoBody]) -> TaskList:
        query = request.query
        page = await self._lists.tasks(
            decode_cursor(query.after, TaskPlace),
            query.limit,
            population=query.population,
            status=None if query.state is None else TaskStatus(query.state),
            kind=query.kind,
            is_archived=query.archived,
        )
        return TaskList(items=page.items, next=encode_cursor(page.next))

    async def _create(self, request: OperatorRequest[ReasonQuery, bytes]) -> Response:
        audit = request.audit("task.create", request.query.reason)
        created = await self._service.create(task_in(request.body, request.media_type), audit=audit)
        response = JSON.response(created, status=CREATE_TASK.status)
        return with_header(response, "location", f"/admin/v1/tasks/{created.name}")

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> TaskView:
        return await self._service.get(request.task)

    async def _revision(self, request: OperatorRequest[Any, Any]) -> int:
        return await self._service.revision(request.task)

    async def _change(self, request: OperatorRequest[Query, TaskChangeOrder]) -> TaskView:
        audit = request.audit("task.change", request.body.reason)
        values = {name: getattr(request.body, name) for name in CHANGEABLE}
        return await self._service.change(request.task, values, audit=audit)

    async def _archive(self, request: OperatorRequest[Query, ReasonOrder]) -> TaskView:
        audit = request.audit("task.archive", request.body.reason)
        return await self._service.set_archived(request.task, is_archived=True, audit=audit)

    async def _unarchive(self, request: OperatorRequest[Query, ReasonOrder]) -> TaskView:
        audit = request.audit("task.unarchive", request.body.reason)
        return await self._service.set_archived(request.task, is_archived=False, audit=audit)

    async def _history(self, request: OperatorRequest[HistoryQuery, NoBody]) -> TaskHistory:
        return await self._histories.history(request.task, request.query.limit)

    async def _pause(self, request: OperatorRequest[Query, PauseOrder]) -> TaskView:
        audit = request.audit("task.pause", request.body.reason)
        return await self._service.pause(request.task, until=request.body.until, audit=audit)

    async def _resume(self, request: OperatorRequest[Query, ReasonOrder]) -> TaskView:
        audit = request.audit("task.resume", request.body.reason)
        return await self._service.resume(request.task, audit=audit)

    async def _cancel(self, request: OperatorRequest[Query, ReasonOrder]) -> TaskView:
        audit = request.audit("task.cancel", request.body.reason)
        return await self._service.cancel(request.task, audit=audit)
