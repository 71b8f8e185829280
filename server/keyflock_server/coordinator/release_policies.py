"""Takes the steps of releases that policies ask for: at every pass of the process that leads.

A step is decided on a row of the history and refused if another one is newer, so that two processes that both
believe to lead take no step twice.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from keyflock_server.audit.context import GATE, POLICY, AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.release_gate import GateAnswer, ReleaseGate
from keyflock_server.coordinator.release_steps import (
    ReleaseSteps,
    is_operators,
    newest_tried,
    stage_began_at,
    state_of,
)
from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.protocol.problems import ApiError
from keyflock_server.releases.policies import policy_from_json
from keyflock_server.releases.release_decision import Situation, next_event
from keyflock_server.releases.release_state import (
    GateFailed,
    GateInconclusive,
    ReleaseEvent,
    ReleaseRolledBack,
    Started,
)
from keyflock_server.storage.errors import PopulationGone, Superseded
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.records import PopulationRecord

#: The role in the audit log of what the server does by itself.
_ROLE: Final = "server"
_MAX_REASON_CHARS: Final = 300
#: How often a release of which nothing is due is looked at again.
_INTERVAL: Final = timedelta(seconds=5)


class _Seen(NamedTuple):
    """What of a population's row decides whether its policy has something to do."""

    latest_version: ModelVersion
    policy_json: str | None
    archived_at: datetime | None


class ReleasePolicies:
    """Applies the policies of all populations."""

    def __init__(
        self, deps: Dependencies, models: ModelStore, gate: ReleaseGate, steps: ReleaseSteps
    ) -> None:
        self._deps = deps
        self._models = models
        self._gate = gate
        self._steps = steps
        #: What was seen of populations of which nothing was due, and when.
        self._quiet: dict[PopulationName, tuple[_Seen, datetime]] = {}

    async def apply(self) -> None:
        """Take the step that is due of each population; the next pass takes the one after it.

        A release without a candidate is looked at when its population has changed, and every few seconds in
        case an operator has started one through another process.

        Raises:
            Exception: the first failure; the releases of the other populations were moved all the same.
        """
        now, failures = self._deps.clock(), list[Exception]()
        populations = await self._deps.store.populations.all()
        for name in self._quiet.keys() - {population.name for population in populations}:
            del self._quiet[name]
        for population in populations:
            seen = _Seen(population.latest_version, population.release_policy_json, population.archived_at)
            quiet = self._quiet.get(population.name)
            if quiet is not None and quiet[0] == seen and timedelta(0) <= now - quiet[1] < _INTERVAL:
                continue
            try:
                newest = await self._models.current_release(population.name)
            except ApiError:
                continue  # it was deleted in this very moment
            if not _may_move(population, newest):
                self._quiet[population.name] = seen, now
                continue
            self._quiet.pop(population.name, None)
            try:
                await self._apply_to(population, newest)
            except Exception as error:  # noqa: BLE001 - whatever it was, the other releases go on
                failures.append(error)
        if failures:
            raise failures[0]

    async def _apply_to(self, population: PopulationRecord, newest: ReleaseRecord) -> None:
        policy = policy_from_json(population.release_policy_json)
        try:
            judged = await self._judged(newest, policy)
        except ApiError:
            return  # a version was deleted in this very moment
        event = next_event(
            await self._situation(population, newest, judged), policy, now := self._deps.clock()
        )
        if event is None:
            return
        try:
            await self._steps.take(
                newest,
                event,
                audit=_audit(event, judged, now),
                evidence_json=None if judged is None else judged.report.to_json(),
            )
        except (Superseded, PopulationGone):
            return  # somebody was faster: the next pass looks again
        self._models.forget_rows()

    async def _judged(self, newest: ReleaseRecord, policy: PromotionPolicy) -> GateAnswer | None:
        if newest.candidate is None:
            return None
        return await self._gate.judge(newest.population, newest.candidate, newest.version, policy)

    async def _situation(
        self, population: PopulationRecord, newest: ReleaseRecord, judged: GateAnswer | None
    ) -> Situation:
        history = await self._steps.recent(population.name)
        last = None if judged is None else judged.last
        return Situation(
            state=state_of(newest),
            newest=population.latest_version,
            newest_tried=newest_tried(history),
            is_operators=is_operators(newest),
            stepped_at=newest.at,
            stage_began_at=stage_began_at(history),
            verdict=None if judged is None else judged.report.verdict,
            evaluated_at=None if last is None else last.at,
        )


def _may_move(population: PopulationRecord, state: ReleaseRecord) -> bool:
    """Return whether a policy may have something to do; the common case costs no further query."""
    if population.archived_at is not None:
        return False
    if state.candidate is not None:
        return True
    policy = policy_from_json(population.release_policy_json)
    return policy.promotion is not Promotion.MANUAL and population.latest_version > state.version


def _audit(event: ReleaseEvent, judged: GateAnswer | None, now: datetime) -> AuditContext:
    if judged is None:
        what = "becomes the candidate" if isinstance(event, Started) else "is served to everybody"
        reason = f"The newest version {what}, as the policy says."
    else:
        reason = " ".join(finding.detail for finding in judged.report.findings)
    by_gate = isinstance(event, GateFailed | GateInconclusive | ReleaseRolledBack)
    return AuditContext(
        operator=GATE if by_gate else POLICY,
        role=_ROLE,
        reason=reason[:_MAX_REASON_CHARS],
        action=f"release.{type(event).__name__.lower()}",
        at=now,
    )
