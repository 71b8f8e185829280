"""Answers operators' calls about rounds."""

from keyflock_server.coordinator.task_service import TaskService
from keyflock_server.http.operators.handlers import Handlers
from keyflock_server.http.operators.request import OperatorRequest
from keyflock_server.protocol.operator.call import NoBody, Query
from keyflock_server.protocol.operator.rounds import (
    ACCEPT_ROUND,
    DISCARD_ROUND,
    ROUND,
    ROUNDS,
    DecisionOrder,
    RoundList,
    RoundView,
)


class RoundResource:
    """The handlers of the calls about rounds.

    Args:
        tasks: Shows the rounds of tasks, and decides held ones.
    """

    def __init__(self, tasks: TaskService) -> None:
        self._tasks = tasks

    def register(self, handlers: Handlers) -> None:
        """See ``handlers.Resource``."""
        handlers.add(ROUNDS, self._list)
        handlers.add(ROUND, self._get)
        handlers.add(ACCEPT_ROUND, self._accept)
        handlers.add(DISCARD_ROUND, self._discard)

    async def _list(self, request: OperatorRequest[Query, NoBody]) -> RoundList:
        return RoundList(rounds=await self._tasks.rounds(request.task))

    async def _get(self, request: OperatorRequest[Query, NoBody]) -> RoundView:
        return await self._tasks.round(request.round_id)

    async def _accept(self, request: OperatorRequest[Query, DecisionOrder]) -> RoundView:
        return await self._tasks.accept_round(request.round_id, request.body)

    async def _discard(self, request: OperatorRequest[Query, DecisionOrder]) -> RoundView:
        return await self._tasks.discard_round(request.round_id, request.body)
