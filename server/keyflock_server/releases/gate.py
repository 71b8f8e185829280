"""The gate: everything that is asked of a candidate before more keyboards serve it.

A gate is a list of checks. The phones' own evaluation is one of them; another one is a class with a name and
a method, and a place in the list. The gate fails if one check fails, and passes if all pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from keyflock_server.releases.model_version import VersionRecord
from keyflock_server.releases.non_inferiority import (
    ClosedEvaluation,
    GateVerdict,
    NonInferiorityResult,
    NonInferiorityRule,
    judge_non_inferiority,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEvidence:
    """What is known of a candidate."""

    candidate: VersionRecord
    #: The version that everybody else is served.
    released: VersionRecord
    #: Evaluations of the one against the other, in the order in which they closed.
    evaluations: Sequence[ClosedEvaluation]


class CheckFinding(Struct, frozen=True, kw_only=True):
    """What one check found."""

    check: str
    verdict: GateVerdict
    #: A sentence for operators, with numbers of the server alone.
    detail: str
    #: The test behind it, for checks that are one.
    test: NonInferiorityResult | None = None


class GateReport(Struct, frozen=True, kw_only=True):
    """What the gate found of a candidate."""

    candidate: int
    released: int
    verdict: GateVerdict
    findings: tuple[CheckFinding, ...]

    def to_json(self) -> str:
        """Return the JSON object that is stored with the step that was taken by it."""
        return msgspec.json.encode(self).decode()


class GateCheck(Protocol):
    """One check of a candidate. It is pure, and finds the same whenever it is given the same evidence."""

    def find(self, evidence: CandidateEvidence) -> CheckFinding:
        """Return what the check finds."""
        ...


class PhonesEvaluation:
    """Checks by the phones' own evaluation that a candidate is not worse than the released version."""

    def __init__(self, rule: NonInferiorityRule) -> None:
        self._rule = rule

    def find(self, evidence: CandidateEvidence) -> CheckFinding:
        """Return the verdict of the test of non-inferiority, with its interval."""
        result = judge_non_inferiority(evidence.evaluations, self._rule)
        return CheckFinding(
            check="phones_evaluation",
            verdict=result.verdict,
            detail=_sentence(result, self._rule),
            test=result,
        )


#: From the worst: a gate is as bad as its worst check.
_WORST_FIRST: Final = (GateVerdict.FAIL, GateVerdict.NO_DATA, GateVerdict.INCONCLUSIVE, GateVerdict.PASS)


def judge_candidate(checks: Sequence[GateCheck], evidence: CandidateEvidence) -> GateReport:
    """Return what the gate finds: the worst of its checks' verdicts, and all findings.

    Args:
        checks: The gate's checks, at least one.
        evidence: What is known of the candidate.
    """
    findings = tuple(check.find(evidence) for check in checks)
    return GateReport(
        candidate=evidence.candidate.version,
        released=evidence.released.version,
        verdict=min((one.verdict for one in findings), key=_WORST_FIRST.index),
        findings=findings,
    )


def _sentence(result: NonInferiorityResult, rule: NonInferiorityRule) -> str:
    margin = f"{100 * rule.margin:g} points of {rule.metric}"
    if result.verdict is GateVerdict.NO_DATA:
        return "No phone has evaluated the candidate against the released version."
    needed = "" if result.users_needed is None else f" About {result.users_needed} phones are needed."
    if not result.looks:
        return f"{result.users} phones have evaluated it; the gate looks from {rule.min_users} on.{needed}"
    last = result.looks[-1]
    interval = (
        f"{100 * last.mean:+.2f} points ({100 * last.lower:+.2f} to {100 * last.upper:+.2f}, "
        f"{last.users} phones, look {last.number})"
    )
    match result.verdict:
        case GateVerdict.PASS:
            return f"It is not worse by {margin}: {interval}."
        case GateVerdict.FAIL:
            return f"It is worse by more than {margin}: {interval}."
        case _:
            return f"Whether it is worse by {margin} is open: {interval}.{needed}"
