"""The assignment builder describes to a phone what it has to do, and signs the token for it."""

from typing import Final

from cachetools import LRUCache
from msgspec.structs import replace

from keyflock_server.aggregation.population_personalisation import first_prior
from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.downlink import Downlink
from keyflock_server.coordinator.model_store import ModelStore, served_weights
from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.identifiers import AssignmentId, RoundId
from keyflock_server.protocol.messages import Assignment, TaskKind
from keyflock_server.protocol.plans import (
    DeviceRules,
    EvaluatingPlan,
    ModelWeights,
    PersonalisingPlan,
)
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.rounds.codec_choice import CodecChoice
from keyflock_server.rounds.eligibility import rules_asked
from keyflock_server.rounds.round import Round
from keyflock_server.rounds.selection import assignment_seed
from keyflock_server.storage.records import AssignmentRecord

#: Number of rounds whose common part is remembered.
_MAX_ROUNDS: Final = 64


class AssignmentBuilder:
    """Builds assignments from rows that are stored already."""

    def __init__(self, deps: Dependencies, models: ModelStore, downlink: Downlink) -> None:
        self._deps = deps
        self._models = models
        self._downlink = downlink
        #: What all devices of a round get alike, by round.
        self._common: LRUCache[RoundId, Assignment] = LRUCache(_MAX_ROUNDS)

    async def build(self, current: Round, row: AssignmentRecord, codec: CodecChoice) -> Assignment:
        """Return what the device has to do; repeated calls differ only in the token's bytes.

        The codec may differ too, if the device comes back on another network: it may use either.
        """
        version = await self._models.version(current.population, current.base_version)
        common = self._common.get(current.id)
        if common is None:
            common = self._common[current.id] = await self._common_part(current, version)
        weights = weights_for(current.spec.kind)
        digest = await self._downlink.content_digest(version, weights)
        evaluating = common.evaluating
        if evaluating is not None:
            # Read each time: one of them may have been withdrawn since, and a digest may be known by now.
            baseline = await self._models.version(current.population, evaluating.baseline_version)
            known = await self._downlink.content_digest(baseline, weights)
            evaluating = replace(evaluating, baseline_content_digest=known)
        now, expires_at = self._deps.clock(), row.runs_out_at(current)
        seed = assignment_seed(self._deps.sampling_key, current.id, row.device)
        claims = AssignmentClaims(
            assignment=row.id,
            device=row.device,
            population=current.population,
            task=current.task,
            round=current.id,
            model_version=current.base_version,
            codec=codec.codec,
            network=codec.network,
            seed=seed,
            layout=common.layout,
            expires_at=expires_at,
        )
        return replace(
            common,
            id=row.id,
            token=self._deps.tokens.issue(claims),
            codec=codec.codec,
            seed=seed,
            expires_in_s=max(0.0, (expires_at - now).total_seconds()),
            content_digest=digest,
            evaluating=evaluating,
        )

    async def download_bytes(self, current: Round) -> int:
        """Return the size of the largest whole download that a device of this round begins with.

        A phone may have the model already, or get it as a difference. Check-in does not say what it has, and
        a difference cannot be promised: the whole is what it must be ready to download.
        """
        numbers = {current.base_version, *current.spec.comparison.versions}
        versions = [await self._models.any_version(current.population, one) for one in numbers]
        return max(one.bytes_of(weights_for(current.spec.kind)) for one in versions)

    async def _common_part(self, current: Round, version: VersionRecord) -> Assignment:
        """Return an assignment whose fields are set as far as they are the same for the whole round."""
        return Assignment(
            id=AssignmentId(""),
            token="",
            task=current.task,
            round=current.id,
            model_version=current.base_version,
            model_digest=version.digest_of(weights_for(current.spec.kind)),
            layout=(await self._models.report_layout(current.spec)).digest,
            plan=current.spec.training,
            codec={},
            seed=0,
            expires_in_s=0.0,
            task_kind=current.spec.kind,
            personalising=await self._personalising_plan(current, version),
            evaluating=await self._evaluating_plan(current, version),
            device_rules=_device_rules(current),
        )

    async def _personalising_plan(self, current: Round, version: VersionRecord) -> PersonalisingPlan | None:
        """Return a ``personalize`` round's plan; only closing the round moves the priors."""
        settings = current.spec.personalising
        if current.spec.kind is not TaskKind.PERSONALIZE:
            return None
        known = await self._models.personalisation(current.population)
        return PersonalisingPlan(
            head=settings.head_of(current.sequence),
            prior=first_prior() if known is None else known.prior,
            words_needed=settings.words_needed,
            weights=served_weights(version),
        )

    async def _evaluating_plan(self, current: Round, candidate: VersionRecord) -> EvaluatingPlan | None:
        """Return an ``evaluate`` round's plan; its spec names both versions."""
        if current.spec.kind is not TaskKind.EVALUATE:
            return None
        comparison, weights = current.spec.comparison, weights_for(current.spec.kind)
        baseline = await self._models.version(current.population, comparison.versions[1])
        return EvaluatingPlan(
            baseline_version=baseline.version,
            baseline_digest=baseline.digest_of(weights),
            baseline_weights=served_weights(baseline),
            metrics=comparison.ordered_metrics,
            words_needed=comparison.words_needed,
            weights=served_weights(candidate),
        )


def weights_for(kind: TaskKind) -> ModelWeights:
    """Return the weights that a task's devices begin with: those that keyboards serve, unless they train."""
    return ModelWeights.TRAINING if kind is TaskKind.TRAIN else ModelWeights.RELEASED


def _device_rules(current: Round) -> DeviceRules | None:
    rules = current.spec.eligibility.device
    return rules if rules_asked(rules) else None
