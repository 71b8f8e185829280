"""An operator ends a collecting round before its time: it closes with what it has, or gives its reports up.

Every process may do so: the decision is an event in the round's row, and the leader goes on from there. What
waits in this process for its flush is counted first, if it is enough; what waits in others is answered
that the round has ended, as reports are that come too late.
"""

from typing import Final

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.report_committer import ReportCommitter
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.coordinator.task_state import TaskState
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.discarding import abandoned_by_operator, carried_by_operator
from keyflock_server.rounds.round import CloseRequested, Phase, Round
from keyflock_server.storage.errors import Superseded

_CLOSES: Final = frozenset(
    {Phase.CLOSING, Phase.MERGED, Phase.STEPPED, Phase.HELD, Phase.PUBLISHED, Phase.CLOSED}
)
_GIVEN_UP: Final = frozenset({Phase.ABANDONED, Phase.CARRIED})
#: Another process may count reports at the same moment.
_ATTEMPTS: Final = 5


class RoundEndings:
    """Closes and abandons collecting rounds for operators."""

    def __init__(
        self, deps: Dependencies, registry: TaskRegistry, rounds: RoundDriver, flusher: ReportCommitter
    ) -> None:
        self._deps = deps
        self._registry = registry
        self._rounds = rounds
        self._flusher = flusher

    async def close(self, round_id: RoundId, audit: AuditContext) -> None:
        """Close a round now, with the reports that it has; repeating it is no error.

        Raises:
            ApiError: ``not_found``; ``conflict`` for a round that has too few reports, or is over otherwise.
        """
        current = await self._round(round_id)
        if current.phase in _CLOSES:
            return
        _check_collects(current)
        state = await self._registry.get(current.task)
        async with state.flush_lock:
            await self._count_pending(state, round_id)
            current = await self._round(round_id)
            needed = current.spec.round.minimum_reports
            if current.phase is Phase.COLLECTING and current.reports < needed:
                detail = (
                    f"Round {round_id!r} has counted {current.reports} reports, and closes with {needed} at "
                    "least. Wait for more, lower round.minimum for the next rounds, or abandon it."
                )
                raise ApiError(ProblemCode.CONFLICT, detail)
            try:
                await self._rounds.decide(state, round_id, CloseRequested(), audit)
            except Superseded:
                current = await self._round(round_id)
                if current.phase not in _CLOSES:
                    _check_collects(current)
                    raise _changed_meanwhile() from None

    async def abandon(self, round_id: RoundId, audit: AuditContext, *, drops: bool) -> None:
        """End a round without a result; repeating it is no error.

        Its reports go into the next round where ``round.on_miss`` says so and the model is still the same;
        else they are dropped.

        Args:
            round_id: The round.
            audit: Who ends it and why.
            drops: Whether the reports are dropped in any case.
        Raises:
            ApiError: ``not_found``; ``conflict`` for a round that does not collect any more.
        """
        current = await self._round(round_id)
        if current.phase in _GIVEN_UP:
            return
        _check_collects(current)
        state = await self._registry.get(current.task)
        may_carry = current.spec.round.on_miss == "carry" and current.spec.kind is TaskKind.TRAIN
        async with state.flush_lock:
            if may_carry and not drops and not current.is_async:
                await self._count_pending(state, round_id)
                try:
                    if await self._rounds.carry(state, round_id, carried_by_operator(audit.reason), audit):
                        return
                except Superseded:
                    pass  # it has changed meanwhile; what has become of it is read below
            await self._drop(state, round_id, audit)

    async def _drop(self, state: TaskState, round_id: RoundId, audit: AuditContext) -> None:
        for attempt in range(_ATTEMPTS):
            current = await self._round(round_id)
            if current.phase in _GIVEN_UP:
                return
            _check_collects(current)
            try:
                await self._rounds.decide(
                    state, round_id, abandoned_by_operator(current, audit.reason), audit
                )
            except Superseded:
                if attempt == _ATTEMPTS - 1:
                    raise _changed_meanwhile() from None
            else:
                return

    async def _count_pending(self, state: TaskState, round_id: RoundId) -> None:
        """Commit what waits in this process, if it is enough. The caller holds ``flush_lock``."""
        async with state.round_lock:
            opened = state.open_round
            if opened is None or opened.id != round_id:
                return
            await self._flusher.flush_rest(state, opened)
            if opened.unsure is not None:
                detail = "Whether reports were counted is not known now; try again in a moment."
                raise ApiError(ProblemCode.OVERLOADED, detail)

    async def _round(self, round_id: RoundId) -> Round:
        record = await self._deps.store.rounds.get(round_id)
        if record is None:
            raise ApiError(ProblemCode.NOT_FOUND, "There is no such round here.")
        return record.round


def _changed_meanwhile() -> ApiError:
    return ApiError(ProblemCode.CONFLICT, "The round has changed in this very moment; try again.")


def _check_collects(current: Round) -> None:
    if current.phase is Phase.COLLECTING:
        return
    what = "decide it: accept or discard" if current.phase is Phase.HELD else "there is nothing to end"
    raise ApiError(ProblemCode.CONFLICT, f"Round {current.id!r} is {current.phase}; {what}.")
