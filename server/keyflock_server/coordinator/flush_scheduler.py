"""The flush scheduler begins the flush that a report makes due: at once, or after the task's interval."""

import asyncio
from contextvars import Context
from functools import partial

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.report_committer import ReportCommitter
from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.rounds.decisions import is_goal_met, may_flush
from keyflock_server.telemetry.log_context import shared_task


class FlushScheduler:
    """Begins flushes.

    Where flushes keep an interval, a task has at most one under way, and what comes meanwhile waits for the
    next. Elsewhere every report that makes a flush due begins one, and waits for it.
    """

    def __init__(self, deps: Dependencies, committer: ReportCommitter) -> None:
        self._deps = deps
        self._committer = committer
        self._under_way: set[asyncio.Task[None]] = set()
        #: Tasks with a flush under way, where there may be one.
        self._busy: set[TaskName] = set()
        self._timers: dict[TaskName, asyncio.TimerHandle] = {}
        self._is_stopping = False

    def report_added(self, state: TaskState) -> asyncio.Task[None] | None:
        """Begin a flush if one is due now, and return it; or have it begin when the interval is over."""
        task, opened = state.task, state.open_round
        if opened is None or task in self._busy or self._is_stopping:
            return None
        pending = opened.batch.sum.size
        if not may_flush(opened.round, pending):
            return None
        rest_s = state.flush_pace.rest_s(asyncio.get_running_loop().time())
        if rest_s <= 0.0 or is_goal_met(opened.round, pending):
            return self._begin(state)
        if task not in self._timers:
            later = asyncio.get_running_loop().call_later(
                rest_s, self._interval_over, state, context=Context()
            )
            self._timers[task] = later
        return None

    async def stop(self) -> None:
        """Begin no flush any more, and wait for those under way."""
        self._is_stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._under_way:
            await asyncio.wait(self._under_way)

    def _interval_over(self, state: TaskState) -> None:
        self._timers.pop(state.task, None)
        self.report_added(state)

    def _begin(self, state: TaskState) -> asyncio.Task[None]:
        if (timer := self._timers.pop(state.task, None)) is not None:
            timer.cancel()
        if self._committer.has_interval:
            self._busy.add(state.task)
        # An asyncio task of its own: a phone that hangs up must not cancel the others' batch.
        flush = shared_task(self._flush(state))
        self._under_way.add(flush)
        flush.add_done_callback(partial(self._ended, state.task))
        return flush

    async def _flush(self, state: TaskState) -> None:
        try:
            is_fine = await self._committer.flush_if_due(state)
        finally:
            self._busy.discard(state.task)
        if is_fine and self._committer.has_interval:
            # Reports that came meanwhile found this flush under way.
            self.report_added(state)

    def _ended(self, task: TaskName, flush: asyncio.Task[None]) -> None:
        """Report the flush's error even if the request that waited for it has ended."""
        self._under_way.discard(flush)
        error = None if flush.cancelled() else flush.exception()
        if isinstance(error, Exception):
            self._deps.observer.flush_failed(task, error)
