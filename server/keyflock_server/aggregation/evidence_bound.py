"""Which evidence of a phone's personalisation cannot be honest: each of its places has bounds of its own."""

from keyflock_compression import DecodedUpdate, Layout
from keyflock_models.personal.evidence import refusal_of
from keyflock_server.aggregation.verdicts import Admitted, Rejected, Verdict


class EvidenceJudge:
    """The bounds of ``keyflock_models.personal.evidence``.

    Guarantees:
        What is admitted moves no place of a mean further than any other phone could.
    """

    def judge(self, update: DecodedUpdate, layout: Layout, table: str) -> Admitted | Rejected:  # noqa: ARG002 - evidence has one layout and one codec
        """Whether the evidence is summed."""
        refusal = refusal_of(update.dense())
        return Rejected(Verdict.EVIDENCE_BOUND, refusal) if refusal else Admitted(update)

    def shortened(self, update: DecodedUpdate, layout: Layout) -> DecodedUpdate:  # noqa: ARG002 - as above
        """Evidence is summed as it came."""
        return update
