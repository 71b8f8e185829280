"""Group commit: what arrives while a transaction is under way is committed together in the next one.

No timer is involved: a group forms by itself while the one before it is written, and an operation that finds
no transaction under way is committed at once. So a lone phone waits for one transaction, and under load the
cost of a transaction is shared by all that arrived during the one before (docs/decisions/0049).
"""

import asyncio
from collections import deque
from typing import Final, assert_never, overload

from keyflock_server.protocol.messages import ReturnWindow
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.storage.interfaces.group_writer import (
    AddDevice,
    CountReports,
    GiveBack,
    GroupWriter,
    Operation,
    OperationOutcome,
    TakeSlot,
)
from keyflock_server.storage.records import RoundRecord
from keyflock_server.telemetry.log_context import shared_task

#: Rows that one transaction writes at most, unless a single operation has more.
MAX_GROUP_ROWS: Final = 512
#: Operations that may wait; with a transaction of 512 rows in some 20 ms, the last of them waits 200 ms.
MAX_WAITING: Final = 4_096

_Waiting = tuple[Operation, asyncio.Future[RoundRecord | None]]


class GroupCommit:
    """Commits the operations of all requests, one group after the other.

    Args:
        writer: Commits a group.
        max_waiting: Operations that may wait for their transaction; more are sent away.
    """

    def __init__(self, writer: GroupWriter, max_waiting: int = MAX_WAITING) -> None:
        self._writer = writer
        self._max_waiting = max_waiting
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    @overload
    async def submit(self, operation: TakeSlot | GiveBack | CountReports) -> RoundRecord: ...

    @overload
    async def submit(self, operation: AddDevice) -> None: ...

    async def submit(self, operation: Operation) -> RoundRecord | None:
        """Return the operation's result once it is durable.

        Guarantees:
            A caller that is cancelled does not cancel the others of its group; its own operation is written
            all the same if its transaction has begun.
        Raises:
            ApiError: ``overloaded``, because too many operations wait; nothing is written.
            StorageError: the store failed with the whole group.
            Exception: what the operation says that it raises.
        """
        # A flush is never sent away: its reports are bounded where they arrive.
        if len(self._waiting) >= self._max_waiting and not isinstance(operation, CountReports):
            later = ReturnWindow(min_s=5.0, max_s=30.0)
            raise ApiError(ProblemCode.OVERLOADED, "Too many phones wait for the store.", later)
        answer: asyncio.Future[RoundRecord | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, answer))
        if self._committing is None:
            self._committing = shared_task(self._commit_all())
        return await answer

    async def drain(self) -> None:
        """Wait until everything that was submitted has its answer."""
        while self._committing is not None:
            await asyncio.wait([self._committing])

    async def _commit_all(self) -> None:
        try:
            while group := self._next_group():
                await self._commit(group)
        finally:
            self._committing = None
            for _, answer in self._waiting:  # some are left only if the event loop is being closed
                answer.cancel()

    def _next_group(self) -> list[_Waiting]:
        """Take the operations of the next transaction, first come, first served."""
        group: list[_Waiting] = []
        rows = 0
        while self._waiting and (not group or rows + _rows(self._waiting[0][0]) <= MAX_GROUP_ROWS):
            operation, answer = self._waiting.popleft()
            if not answer.done():  # its caller may have been cancelled meanwhile
                group.append((operation, answer))
                rows += _rows(operation)
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        outcomes: list[OperationOutcome]
        try:
            outcomes = await self._writer.commit([operation for operation, _ in group])
        except Exception as error:  # noqa: BLE001 - whatever it was, each caller learns it
            outcomes = [error] * len(group)
        except BaseException:  # the event loop is being closed
            for _, answer in group:
                answer.cancel()
            raise
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)


def _rows(operation: Operation) -> int:
    match operation:
        case CountReports(_, reports):
            return len(reports)
        case TakeSlot() | GiveBack() | AddDevice():
            return 1
        case _:
            assert_never(operation)
