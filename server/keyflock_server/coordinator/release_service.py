"""The release service answers operators' calls about releases: what keyboards serve, and every step of it."""

from typing import Final

import msgspec

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore, population_unknown
from keyflock_server.coordinator.release_gate import GateAnswer, ReleaseGate
from keyflock_server.coordinator.release_steps import ReleaseSteps
from keyflock_server.coordinator.release_views import gate_view, release_step, release_view
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName
from keyflock_server.protocol.operator.promotion_policy import EVERYBODY, Promotion, PromotionPolicy
from keyflock_server.protocol.operator.releases import (
    DeviceRelease,
    GateView,
    PolicyOrder,
    PromoteOrder,
    ReleaseRollbackOrder,
    ReleaseStep,
    ReleaseView,
    StartOrder,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.protocol.roles import Role
from keyflock_server.releases.gate import GateReport
from keyflock_server.releases.non_inferiority import GateVerdict
from keyflock_server.releases.policies import policy_from_json, policy_to_json
from keyflock_server.releases.release_state import (
    IllegalReleaseEvent,
    OperatorHeld,
    Promoted,
    ReleaseEvent,
    ReleaseRolledBack,
    Started,
    Widened,
)
from keyflock_server.storage.errors import PopulationGone, Superseded
from keyflock_server.storage.operator_records import ReleaseRecord
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.release_rows import versions_before

_FORCE: Final = "Repeat it with is_forced, which takes the role admin."


class ReleaseService:
    """Shows releases, and takes operators' steps.

    Guarantees:
        A step that is answered is in the history and in the audit log. A step that would serve a candidate
        that the gate found worse, or promote one that the gate did not pass, is refused unless an admin
        forces it.
    """

    def __init__(
        self, deps: Dependencies, models: ModelStore, gate: ReleaseGate, steps: ReleaseSteps
    ) -> None:
        self._deps = deps
        self._models = models
        self._gate = gate
        self._steps = steps

    async def page(
        self, after: PopulationName | None, limit: int
    ) -> tuple[list[ReleaseView], PopulationName | None]:
        """Return a page of all populations' releases, and the population that the next page follows."""
        states = await self._deps.store.releases.all_newest()
        populations = [
            one
            for one in await self._deps.store.populations.all()
            if one.name in states and (after is None or one.name > after)
        ]
        shown = [release_view(one, states[one.name]) for one in populations[:limit]]
        return shown, populations[limit - 1].name if len(populations) > limit else None

    async def release(self, name: PopulationName, device: DeviceId | None = None) -> ReleaseView:
        """Return what a population's keyboards are served, and one of its devices if it is named.

        Raises:
            ApiError: ``population_unknown``; ``not_found`` for a device that is not enrolled there.
        """
        population = await self._models.population(await self._models.resolve(name))
        shown = await self._shown(population, await self._steps.newest(population.name))
        if device is None:
            return shown
        row = await self._deps.store.devices.get(device)
        if row is None or row.population != population.name:
            raise ApiError(ProblemCode.NOT_FOUND, "No such device is enrolled in this population.")
        served = DeviceRelease(
            bucket=await self._models.bucket(population.name, device),
            version=await self._models.released_version(population.name, device),
        )
        return msgspec.structs.replace(shown, device=served)

    async def history(
        self, name: PopulationName, before: int | None, limit: int
    ) -> tuple[list[ReleaseStep], int | None]:
        """Return a page of a population's history, newest first, and the number that the next is below."""
        id_ = await self._models.resolve(name)
        rows = await self._deps.store.releases.page(id_, before, limit)
        shown = [release_step(row) for row in rows]
        return shown, rows[-1].sequence if rows and rows[-1].sequence > 0 else None

    async def policy(self, name: PopulationName) -> tuple[PromotionPolicy, int]:
        """Return a population's policy, and the population's revision, which grows with it."""
        population = await self._models.population(await self._models.resolve(name))
        return policy_from_json(population.release_policy_json), population.revision

    async def set_policy(
        self, name: PopulationName, order: PolicyOrder, *, audit: AuditContext
    ) -> tuple[PromotionPolicy, int]:
        """Give a population another policy, which the next pass applies; return the same as ``policy``.

        Raises:
            ApiError: ``population_unknown``.
            Superseded: the population has another revision than this was decided on.
        """
        id_ = await self._models.resolve(name)
        changes = policy_to_json(order.policy)
        try:
            changed = await self._deps.store.populations.change(
                id_, {"release_policy_json": changes}, audit=audit
            )
        except PopulationGone:
            raise population_unknown() from None
        return order.policy, changed.revision

    async def gate(self, name: PopulationName, candidate: int | None) -> GateView:
        """Return what the gate finds now; nothing is changed by asking.

        Args:
            name: The population.
            candidate: A version; None: the candidate or, without one, the newest version.
        """
        newest = await self._steps.newest(await self._models.resolve(name))
        asked = newest.candidate if candidate is None else ModelVersion(candidate)
        judged = await self._judged(newest, asked)
        return gate_view(judged.report)

    async def start(self, name: PopulationName, order: StartOrder, *, audit: AuditContext) -> ReleaseView:
        """Serve a candidate to a stage, or the same candidate to a wider one.

        Raises:
            ApiError: ``conflict``; ``model_unknown`` or ``model_withdrawn``; ``role_too_weak``.
        """
        _require_admin(audit, is_forced=order.is_forced)
        newest = await self._steps.newest(await self._models.resolve(name))
        population = await self._models.population(newest.population)
        policy = policy_from_json(population.release_policy_json)
        named = newest.candidate if order.candidate is None else order.candidate
        candidate = population.latest_version if named is None else ModelVersion(named)
        event: Started | Widened
        if candidate == newest.candidate:
            event = Widened(newest.percent if order.percent is None else order.percent)
        else:
            event = Started(candidate, _first_stage(policy) if order.percent is None else order.percent)
        await self._models.version(newest.population, candidate)
        judged = await self._judged(newest, candidate)
        is_blocked = judged.report.verdict is GateVerdict.FAIL and event.percent > 0 and not policy.is_dry_run
        if is_blocked and not order.is_forced:
            raise _refused(judged.report, "staged")
        return await self._take(newest, event, judged, audit)

    async def promote(self, name: PopulationName, order: PromoteOrder, *, audit: AuditContext) -> ReleaseView:
        """Serve a version to everybody.

        Raises:
            ApiError: ``conflict``; ``model_unknown`` or ``model_withdrawn``; ``role_too_weak``.
        """
        _require_admin(audit, is_forced=order.is_forced)
        newest = await self._steps.newest(await self._models.resolve(name))
        named = newest.candidate if order.version is None else order.version
        if named is None:
            raise ApiError(
                ProblemCode.CONFLICT, "There is no candidate: name the version that is to be promoted."
            )
        if (version := ModelVersion(named)) == newest.version:
            raise ApiError(ProblemCode.CONFLICT, f"Version {version} is served to everybody already.")
        await self._models.version(newest.population, version)
        policy, _ = await self.policy(newest.population)
        judged = await self._judged(newest, version)
        is_gated = policy.promotion is not Promotion.AUTOMATIC and not policy.is_dry_run
        if judged.report.verdict is not GateVerdict.PASS and is_gated and not order.is_forced:
            raise _refused(judged.report, "promoted")
        return await self._take(newest, Promoted(version), judged, audit)

    async def hold(self, name: PopulationName, *, audit: AuditContext) -> ReleaseView:
        """Stop the candidate at its stage; raises ApiError ``conflict`` without one."""
        newest = await self._steps.newest(await self._models.resolve(name))
        return await self._take(newest, OperatorHeld(), None, audit)

    async def roll_back(
        self, name: PopulationName, order: ReleaseRollbackOrder, *, audit: AuditContext
    ) -> ReleaseView:
        """Take the candidate back or, without one, serve an earlier version again.

        Raises:
            ApiError: ``conflict``: there is nothing to take back, or the version was never served.
        """
        newest = await self._steps.newest(await self._models.resolve(name))
        to = await self._rolled_back_to(newest, order.to)
        return await self._take(newest, ReleaseRolledBack(to), None, audit)

    async def _rolled_back_to(self, newest: ReleaseRecord, to: int | None) -> ModelVersion:
        if to is None and newest.candidate is not None:
            return newest.version
        before = versions_before(await self._steps.recent(newest.population))
        for version in before if to is None else [one for one in before if one == to]:
            row = await self._deps.store.populations.version(newest.population, version)
            if row is not None and row.withdrawn_at is None:
                return version
        which = "No version" if to is None else f"Version {to} is none that"
        detail = f"{which} was served to everybody before this one and is still there: promote one instead."
        raise ApiError(ProblemCode.CONFLICT, detail)

    async def _judged(self, newest: ReleaseRecord, candidate: ModelVersion | None) -> GateAnswer:
        population = await self._models.population(newest.population)
        policy = policy_from_json(population.release_policy_json)
        asked = population.latest_version if candidate is None else candidate
        return await self._gate.judge(newest.population, asked, newest.version, policy)

    async def _take(
        self, newest: ReleaseRecord, event: ReleaseEvent, judged: GateAnswer | None, audit: AuditContext
    ) -> ReleaseView:
        evidence = None if judged is None else judged.report.to_json()
        try:
            taken = await self._steps.take(newest, event, audit=audit, evidence_json=evidence)
        except IllegalReleaseEvent as error:
            raise ApiError(ProblemCode.CONFLICT, f"{error}.") from None
        except PopulationGone:
            raise population_unknown() from None
        except Superseded:
            detail = "Another step of this release was taken at the same time: look at it, and decide again."
            raise ApiError(ProblemCode.CONFLICT, detail) from None
        self._models.forget_rows()
        return await self._shown(await self._models.population(taken.population), taken)

    async def _shown(self, population: PopulationRecord, newest: ReleaseRecord) -> ReleaseView:
        """Return the view of a release, with what the gate finds of its candidate."""
        gate = None
        if newest.candidate is not None:
            gate = gate_view((await self._judged(newest, newest.candidate)).report)
        return msgspec.structs.replace(release_view(population, newest), gate=gate)


def _require_admin(audit: AuditContext, *, is_forced: bool) -> None:
    """Raise ApiError ``role_too_weak`` where somebody who is no admin forces a step."""
    if is_forced and not Role(audit.role).includes(Role.ADMIN):
        detail = f"Forcing a step past the gate needs the role admin; the token's is {audit.role}."
        raise ApiError(ProblemCode.ROLE_TOO_WEAK, detail)


def _first_stage(policy: PromotionPolicy) -> int:
    """Return the first stage of a candidate: nobody where the gate decides, or the policy has no stages."""
    first = policy.stages[0]
    return 0 if policy.promotion is Promotion.GATE or first == EVERYBODY else first


def _refused(report: GateReport, what: str) -> ApiError:
    found = " ".join(finding.detail for finding in report.findings)
    detail = f"Version {report.candidate} is not {what}: the gate says {report.verdict}. {found} {_FORCE}"
    return ApiError(ProblemCode.CONFLICT, detail)
