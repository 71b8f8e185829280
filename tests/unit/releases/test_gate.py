"""A gate is as bad as its worst check, and says in a sentence what it found."""

from datetime import UTC, datetime

import pytest

from keyflock_server.protocol.identifiers import ModelVersion, PopulationName
from keyflock_server.protocol.operator.promotion_policy import PromotionPolicy
from keyflock_server.releases.gate import CandidateEvidence, CheckFinding, PhonesEvaluation, judge_candidate
from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.releases.non_inferiority import ClosedEvaluation, GateVerdict
from keyflock_server.releases.paired_sums import MetricSums, PairedSums
from keyflock_server.releases.policies import rule_of


def version(number: int) -> VersionRecord:
    return VersionRecord(
        population=PopulationName("en_gb"),
        version=ModelVersion(number),
        parent=None,
        round_id=None,
        created_at=datetime(2026, 11, 30, tzinfo=UTC),
        download_digest=b"d" * 32,
        download_bytes=1,
        download_key="d",
        checkpoint_key="c",
    )


def evidence(*evaluations: ClosedEvaluation) -> CandidateEvidence:
    return CandidateEvidence(candidate=version(5), released=version(3), evaluations=evaluations)


def evaluation(users: int, mean: float) -> ClosedEvaluation:
    squares = users * (0.03**2 + mean**2)
    sums = MetricSums(
        candidate=users * mean,
        baseline=0.0,
        candidate_squared=squares,
        baseline_squared=0.0,
        product=0.0,
    )
    return ClosedEvaluation(sums=PairedSums(users=users, metrics={"recall_at_3": sums}), new_phones=users)


class Always:
    """Finds the same whatever the evidence."""

    def __init__(self, verdict: GateVerdict) -> None:
        self._verdict = verdict

    def find(self, _evidence: CandidateEvidence) -> CheckFinding:
        return CheckFinding(check="always", verdict=self._verdict, detail="As always.")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ((GateVerdict.PASS, GateVerdict.PASS), GateVerdict.PASS),
        ((GateVerdict.PASS, GateVerdict.INCONCLUSIVE), GateVerdict.INCONCLUSIVE),
        ((GateVerdict.INCONCLUSIVE, GateVerdict.NO_DATA), GateVerdict.NO_DATA),
        ((GateVerdict.NO_DATA, GateVerdict.FAIL), GateVerdict.FAIL),
    ],
)
def test_a_gate_is_as_bad_as_its_worst_check(found: tuple[GateVerdict, ...], verdict: GateVerdict) -> None:
    report = judge_candidate([Always(one) for one in found], evidence())

    assert report.verdict is verdict
    assert (report.candidate, report.released) == (5, 3)
    assert [finding.verdict for finding in report.findings] == list(found)


@pytest.mark.parametrize(
    ("evaluations", "sentence"),
    [
        ((), "No phone has evaluated the candidate against the released version."),
        ((evaluation(50, 0.0),), "50 phones have evaluated it; the gate looks from 400 on. About "),
        (
            (evaluation(900, 0.0),),
            "It is not worse by 0.5 points of recall_at_3: +0.00 points (-0.20 to +0.20,",
        ),
        ((evaluation(900, -0.02),), "It is worse by more than 0.5 points of recall_at_3: -2.00 points"),
        (
            (evaluation(900, -0.005),),
            "Whether it is worse by 0.5 points of recall_at_3 is open: -0.50 points",
        ),
    ],
)
def test_the_phones_evaluation_says_what_it_found(
    evaluations: tuple[ClosedEvaluation, ...], sentence: str
) -> None:
    finding = PhonesEvaluation(rule_of(PromotionPolicy())).find(evidence(*evaluations))

    assert finding.detail.startswith(sentence)
