"""What operators read of a round beyond its own row: how far its devices came, and what it measured."""

import json
from typing import Final

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import TaskKind
from keyflock_server.protocol.operator.personal_models import MeasuredGain, PersonalModelsView
from keyflock_server.protocol.operator.rounds import RoundProgress, SessionCount
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.rounds.funnel import funnel, quantile
from keyflock_server.rounds.round import Phase
from keyflock_server.storage.interfaces.listings import RoundFilter
from keyflock_server.storage.records import AssignmentState

#: Maximum number of reports whose times are read; more would say nothing new of their quantiles.
MAX_REPORT_TIMES: Final = 20_000
#: Number of closed rounds that are looked at for measured gains, and the most that are shown.
_ROUNDS_READ: Final = 200
_GAINS_SHOWN: Final = 20


class RoundReading:
    """Reads what rounds have left behind."""

    def __init__(self, deps: Dependencies, models: ModelStore) -> None:
        self._deps = deps
        self._models = models

    async def progress(self, round_id: RoundId) -> RoundProgress:
        """Return how far a round's devices came; raises ApiError ``not_found``."""
        store = self._deps.store
        record = await store.rounds.get(round_id)
        if record is None:
            raise ApiError(ProblemCode.NOT_FOUND, "There is no such round here.")
        task = record.round.task
        sessions = await store.listings.sessions(round_id)
        steps = funnel(sessions, AssignmentState.COUNTED)
        times_s = await store.listings.report_times(round_id, MAX_REPORT_TIMES)
        verdicts = await store.verdicts.list_by_task(task, round_id)
        causes = await store.causes.list_by_task(task, round_id)
        return RoundProgress(
            round=round_id,
            opened_at=record.round.opened_at,
            closed_at=record.round.closed_at,
            assigned=steps.assigned,
            downloaded=steps.downloaded,
            trained=steps.trained,
            uploaded=steps.uploaded,
            counted=steps.counted,
            sessions=[SessionCount(state=one.state, shape=one.shape, count=one.count) for one in sessions],
            first_report_s=quantile(times_s, 0.0),
            p50_report_s=quantile(times_s, 0.5),
            p95_report_s=quantile(times_s, 0.95),
            verdicts=verdicts.get(round_id, {}),
            failures=causes.get(round_id, {}),
        )

    async def personal_models(self, population: str) -> PersonalModelsView:
        """Return the numbers of a population's personal models; raises ``population_unknown``."""
        home = await self._models.population(await self._models.resolve(population))
        listings = self._deps.store.listings
        models, stored_bytes = await listings.personal_models(home.name)
        closed = RoundFilter(population=home.name, phase=Phase.CLOSED)
        gains = [
            MeasuredGain(
                round=one.round.id,
                closed_at=one.round.closed_at or one.round.deadline_at,
                phones=one.round.counted,
                figures=json.loads(one.round.figures_json),
            )
            for one in await listings.rounds(closed, None, _ROUNDS_READ)
            if one.round.spec.kind is TaskKind.PERSONALIZE and one.round.figures_json
        ]
        return PersonalModelsView(
            population=home.shown_name, models=models, stored_bytes=stored_bytes, gains=gains[:_GAINS_SHOWN]
        )
