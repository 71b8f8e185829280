"""Validation of a phone's evidence of its personalisation: each component has bounds of its own."""

from keyflock_compression import DecodedUpdate, Layout
from keyflock_models.personal.evidence import evidence_problem
from keyflock_server.aggregation.verdicts import AdmittedReport, RejectedReport, Verdict


class EvidenceValidator:
    """Rejects evidence beyond the bounds of ``keyflock_models.personal.evidence``.

    Guarantees:
        Admitted evidence moves no component of a mean further than any other phone could.
    """

    def validate(self, update: DecodedUpdate, layout: Layout, table: str) -> AdmittedReport | RejectedReport:  # noqa: ARG002 - evidence has one layout and one codec
        """Return whether the evidence is admitted."""
        refusal = evidence_problem(update.dense())
        return RejectedReport(Verdict.EVIDENCE_BOUND, refusal) if refusal else AdmittedReport(update)

    def clipped(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:  # noqa: ARG002 - as above
        """Return the evidence unchanged."""
        return update
