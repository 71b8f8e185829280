"""Answers operators' calls about rounds."""

from keyflock_server.coordinator.operator_lists import OperatorLists
from keyflock_server.coordinator.round_reading import RoundReading
from keyflock_server.coordinator.task_service import TaskService
from keyflock_server.http.operators.cursors import decode_cursor, encode_cursor
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.operator.call import NoBody, Query, ReasonOrder
from keyflock_server.protocol.operator.rounds import (
    ABANDON_ROUND,
    ACCEPT_ROUND,
    CLOSE_ROUND,
    DISCARD_ROUND,
    ROUND,
    ROUND_PROGRESS,
    ROUNDS,
    AbandonOrder,
    RoundList,
    RoundProgress,
    RoundQuery,
    RoundView,
)
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.interfaces.listings import RoundPlace


class RoundResource:
    """The handlers of the calls about rounds.

    Args:
        tasks: Shows rounds, ends open ones, and decides held ones.
        lists: Lists them.
        reading: Reads how far their devices came.
    """

    def __init__(self, tasks: TaskService, lists: OperatorLists, reading: RoundReading) -> None:
        self._reading = reading
        self._tasks = tasks
        self._lists = lists

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(ROUNDS, self._list)
        handlers.add(ROUND, self._get)
        handlers.add(ROUND_PROGRESS, self._progress)
        handlers.add(CLOSE_ROUND, self._close)
        handlers.add(ABANDON_ROUND, self._abandon)
        handlers.add(ACCEPT_ROUND, self._accept)
        handlers.add(DISCARD_ROUND, self._discard)

    async def _list(self, request: OperatorRequest[RoundQuery, NoBody]) -> RoundList:
        query = request.query
        page = await self._lists.rounds(
            decode_cursor(query.after, RoundPlace),
            query.limit,
            population=query.population,
            task=query.task,
            phase=None if query.phase is None else Phase(query.phase),
        )
        return RoundList(items=page.items, next=encode_cursor(page.next))

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> RoundView:
        return await self._tasks.round(request.round_id)

    async def _progress(self, request: OperatorRequest[Query, NoBody]) -> RoundProgress:
        return await self._reading.progress(request.round_id)

    async def _close(self, request: OperatorRequest[Query, ReasonOrder]) -> RoundView:
        audit = request.audit("round.close", request.body.reason)
        return await self._tasks.close_round(request.round_id, audit=audit)

    async def _abandon(self, request: OperatorRequest[Query, AbandonOrder]) -> RoundView:
        audit = request.audit("round.abandon", request.body.reason)
        return await self._tasks.abandon_round(request.round_id, drops=request.body.drop, audit=audit)

    async def _accept(self, request: OperatorRequest[Query, ReasonOrder]) -> RoundView:
        audit = request.audit("round.accept", request.body.reason)
        return await self._tasks.accept_round(request.round_id, audit=audit)

    async def _discard(self, request: OperatorRequest[Query, ReasonOrder]) -> RoundView:
        audit = request.audit("round.discard", request.body.reason)
        return await self._tasks.discard_round(request.round_id, audit=audit)
