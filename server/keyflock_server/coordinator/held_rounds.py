"""An operator decides on a held round: its result is published, or the round is discarded."""

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.round_driver import RoundDriver
from keyflock_server.coordinator.task_registry import TaskRegistry
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.checks import unacceptable_problem
from keyflock_server.releases.step_figures import StepFigures
from keyflock_server.rounds.discarding import discarded_by_operator
from keyflock_server.rounds.round import Accepted, Discarded, Phase, Round
from keyflock_server.storage.errors import Superseded


class HeldRounds:
    """Accepts and discards held rounds; a decision is in the round's row before it is answered."""

    def __init__(self, deps: Dependencies, registry: TaskRegistry, rounds: RoundDriver) -> None:
        self._deps = deps
        self._registry = registry
        self._rounds = rounds

    async def accept(self, round_id: RoundId, audit: AuditContext) -> None:
        """Let the next pass publish the round's result; repeating it is no error.

        Raises:
            ApiError: ``not_found``; ``conflict`` for a round that is not held, or that made no version that
                could be served.
        """
        current = await self._round(round_id)
        if current.is_accepted:
            return
        _check_is_held(current)
        if problem := unacceptable_problem(StepFigures.from_json(current.figures_json)):
            raise ApiError(
                ProblemCode.CONFLICT, f"Round {round_id!r} cannot be accepted: {problem} Discard it."
            )
        await self._decide(current, Accepted(audit.reason), audit)

    async def discard(self, round_id: RoundId, audit: AuditContext) -> None:
        """Discard the reports of the round's phones; repeating it is no error.

        Raises:
            ApiError: ``not_found``; ``conflict`` for a round that is not held.
        """
        current = await self._round(round_id)
        if current.phase is Phase.DISCARDED:
            return
        _check_is_held(current)
        await self._decide(current, discarded_by_operator(current, audit.reason), audit)

    async def _round(self, round_id: RoundId) -> Round:
        record = await self._deps.store.rounds.get(round_id)
        if record is None:
            raise ApiError(ProblemCode.NOT_FOUND, "There is no such round here.")
        return record.round

    async def _decide(self, current: Round, event: Accepted | Discarded, audit: AuditContext) -> None:
        try:
            await self._rounds.decide(await self._registry.get(current.task), current.id, event, audit)
        except Superseded:
            _check_is_held(await self._round(current.id))
            raise


def _check_is_held(current: Round) -> None:
    if current.phase is not Phase.HELD:
        raise ApiError(
            ProblemCode.CONFLICT,
            f"Round {current.id!r} is {current.phase}, not held: there is nothing to decide.",
        )
