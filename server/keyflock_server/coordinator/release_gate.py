"""The release gate reads what phones have evaluated, and lets the pure gate judge it."""

from typing import Final, NamedTuple

from cachetools import LRUCache

from keyflock_server.coordinator.dependencies import Dependencies
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName
from keyflock_server.protocol.operator.promotion_policy import PromotionPolicy
from keyflock_server.releases.gate import (
    CandidateEvidence,
    GateCheck,
    GateReport,
    PhonesEvaluation,
    judge_candidate,
)
from keyflock_server.releases.non_inferiority import ClosedEvaluation
from keyflock_server.releases.paired_sums import PairedSums
from keyflock_server.releases.policies import rule_of
from keyflock_server.storage.operator_records import EvaluationRecord
from keyflock_server.storage.records import AssignmentState

_MAX_CACHED: Final = 32


class GateAnswer(NamedTuple):
    """What the gate found, and on what."""

    report: GateReport
    #: The last evaluation that the report rests on; None without any.
    last: EvaluationRecord | None


class _Question(NamedTuple):
    """What a report is remembered by: it never changes while these are the same."""

    population: PopulationName
    candidate: ModelVersion
    released: ModelVersion
    policy: PromotionPolicy
    evaluations: tuple[str, ...]


def gate_checks(policy: PromotionPolicy) -> tuple[GateCheck, ...]:
    """Return the checks that a candidate must pass; a further one has its place here."""
    return (PhonesEvaluation(rule_of(policy)),)


class ReleaseGate:
    """Judges candidates by the evaluations in the store; asking changes nothing."""

    def __init__(self, deps: Dependencies, models: ModelStore) -> None:
        self._deps = deps
        self._models = models
        self._reports: LRUCache[_Question, GateReport] = LRUCache(_MAX_CACHED)

    async def judge(
        self,
        name: PopulationName,
        candidate: ModelVersion,
        released: ModelVersion,
        policy: PromotionPolicy,
    ) -> GateAnswer:
        """Return what the gate finds of a candidate against the released version.

        Raises:
            ApiError: ``model_unknown``; one of them was pruned, or never was.
        """
        found = await self._deps.store.evaluations.list_by_candidate(name, candidate)
        records = [record for record in found if record.baseline == released]
        ids = tuple(record.round_id for record in records)
        question = _Question(name, candidate, released, policy, ids)
        report = self._reports.get(question)
        if report is None:
            evidence = CandidateEvidence(
                candidate=await self._models.any_version(name, candidate),
                released=await self._models.any_version(name, released),
                evaluations=await self._evaluations(records),
            )
            report = self._reports[question] = judge_candidate(gate_checks(policy), evidence)
        return GateAnswer(report, records[-1] if records else None)

    async def _evaluations(self, records: list[EvaluationRecord]) -> list[ClosedEvaluation]:
        """Return the evaluations, each with the number of its phones that were in none before it."""
        seen: set[DeviceId] = set()
        evaluations = []
        for record in records:
            rows = await self._deps.store.assignments.list_by_round(record.round_id)
            devices = {row.device for row in rows if row.state is AssignmentState.COUNTED}
            # Assignments are deleted some time after their round: then its phones cannot be told apart.
            new_phones = len(devices - seen) if devices else record.phones
            seen |= devices
            sums = PairedSums.from_json(record.sums_json)
            evaluations.append(ClosedEvaluation(sums=sums, new_phones=new_phones))
        return evaluations
