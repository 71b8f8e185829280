"""Validation of a phone's evidence, whose components all have bounds of their own."""

from collections.abc import Callable

from keyflock_compression import DecodedUpdate, Layout
from keyflock_models.arrays import F32
from keyflock_server.aggregation.verdicts import AdmittedReport, RejectedReport, Verdict


class EvidenceValidator:
    """Rejects evidence beyond its bounds.

    Args:
        problem_of: Why a vector cannot come from an honest phone; empty if it can.
    Guarantees:
        Admitted evidence moves no component of a mean further than any other phone could.
    """

    def __init__(self, problem_of: Callable[[F32], str]) -> None:
        self._problem_of = problem_of

    def validate(self, update: DecodedUpdate, layout: Layout, table: str) -> AdmittedReport | RejectedReport:  # noqa: ARG002 - evidence has one layout and one codec
        """Return whether the evidence is admitted."""
        refusal = self._problem_of(update.dense())
        return RejectedReport(Verdict.EVIDENCE_BOUND, refusal) if refusal else AdmittedReport(update)

    def clipped(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:  # noqa: ARG002 - as above
        """Return the evidence unchanged."""
        return update
