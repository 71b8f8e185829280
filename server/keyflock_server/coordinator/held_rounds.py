"""What an operator decides of a round that is held: to publish what it made, or to give it up."""

from collections.abc import Mapping

from keyflock_server.coordinator.desk import Desk
from keyflock_server.coordinator.rounds import Rounds
from keyflock_server.coordinator.surroundings import Surroundings
from keyflock_server.protocol.identifiers import RoundId, TaskName
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.releases.checks import unacceptable_problem
from keyflock_server.releases.step_figures import StepFigures
from keyflock_server.rounds.discarding import discarded_by_operator
from keyflock_server.rounds.round import Accepted, Discarded, Phase, Round
from keyflock_server.storage.door import Superseded


class HeldRounds:
    """Takes decisions; each is in the round's row before it is answered."""

    def __init__(self, world: Surroundings, desks: Mapping[TaskName, Desk], rounds: Rounds) -> None:
        self._world = world
        self._desks = desks
        self._rounds = rounds

    async def accept(self, round_id: RoundId, reason: str) -> None:
        """Publish what the round made, with the next pass; again is no error.

        Raises:
            Refused: ``not_found``; ``conflict`` for a round that is not held, or that made no version that
                could be served.
        """
        current = await self._round(round_id)
        if current.is_accepted:
            return
        _check_is_held(current)
        if problem := unacceptable_problem(StepFigures.from_json(current.figures_json)):
            raise Refused(
                ProblemCode.CONFLICT, f"Round {round_id!r} cannot be accepted: {problem} Discard it."
            )
        await self._decide(current, Accepted(reason))

    async def discard(self, round_id: RoundId, reason: str) -> None:
        """Give up what the round's phones have brought; again is no error.

        Raises:
            Refused: ``not_found``; ``conflict`` for a round that is not held.
        """
        current = await self._round(round_id)
        if current.phase is Phase.DISCARDED:
            return
        _check_is_held(current)
        await self._decide(current, discarded_by_operator(current, reason))

    async def _round(self, round_id: RoundId) -> Round:
        record = await self._world.store.rounds.get(round_id)
        if record is None or record.round.task not in self._desks:
            raise Refused(ProblemCode.NOT_FOUND, "There is no such round here.")
        return record.round

    async def _decide(self, current: Round, event: Accepted | Discarded) -> None:
        try:
            await self._rounds.decide(self._desks[current.task], current.id, event)
        except Superseded:
            _check_is_held(await self._round(current.id))
            raise


def _check_is_held(current: Round) -> None:
    if current.phase is not Phase.HELD:
        raise Refused(
            ProblemCode.CONFLICT,
            f"Round {current.id!r} is {current.phase}, not held: there is nothing to decide.",
        )
