"""What tests of releases have in common: policies, evaluations and steps over the in-memory store."""

from tests.memory_store.evaluations import MemoryEvaluationRepository
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import ModelVersion, RoundId, TaskName
from keyflock_server.protocol.operator.promotion_policy import PromotionPolicy
from keyflock_server.releases.paired_sums import RECALL_AT_3, MetricSums, PairedSums
from keyflock_server.releases.policies import policy_to_json
from keyflock_server.storage.operator_records import EvaluationRecord, ReleaseRecord


async def set_policy(harness: CoordinatorHarness, policy: PromotionPolicy) -> None:
    audit = AuditContext(
        operator="ann", role="admin", reason="a test", action="release.policy", at=harness.now
    )
    await harness.store.populations.change(
        POPULATION, {"release_policy_json": policy_to_json(policy)}, audit=audit
    )


def evaluate(
    harness: CoordinatorHarness,
    candidate: int,
    baseline: int,
    *,
    mean: float,
    phones: int = 600,
    deviation: float = 0.03,
) -> None:
    """Let so many phones have evaluated a version, with this mean difference of their recall@3."""
    repository = harness.store.evaluations
    assert isinstance(repository, MemoryEvaluationRepository)
    rows = repository._rows.evaluations
    round_id = RoundId(f"evaluation-{len(rows)}")
    sums = MetricSums(
        candidate=phones * mean,
        baseline=0.0,
        candidate_squared=deviation**2 * (phones - 1) + phones * mean**2,
        baseline_squared=0.0,
        product=0.0,
    )
    rows[round_id] = EvaluationRecord(
        round_id=round_id,
        population=POPULATION,
        task=TaskName("e"),
        candidate=ModelVersion(candidate),
        baseline=ModelVersion(baseline),
        phones=phones,
        sums_json=PairedSums(users=phones, metrics={RECALL_AT_3: sums}).to_json(),
        at=harness.now,
    )


async def newest(harness: CoordinatorHarness) -> ReleaseRecord:
    found = await harness.store.releases.newest(POPULATION)
    assert found is not None
    return found


async def steps(harness: CoordinatorHarness) -> list[tuple[str, int, int | None, int, str]]:
    """The whole history, oldest first: action, version, candidate, percent and who took the step."""
    rows = await harness.store.releases.page(POPULATION, None, 100)
    return [(one.action, one.version, one.candidate, one.percent, one.operator) for one in reversed(rows)]
