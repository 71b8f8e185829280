"""Which evidence of a phone's personalisation cannot be honest: each of its places has bounds of its own."""

from keyflock_compression import DecodedUpdate
from keyflock_models.personal.evidence import refusal_of


class EvidenceBound:
    """The bounds of ``keyflock_models.personal.evidence``.

    Guarantees:
        What is admitted moves no place of a mean further than any other phone could.
    """

    def refusal(self, update: DecodedUpdate) -> str:
        """Why the evidence is refused, in one sentence; empty if it is admitted."""
        return refusal_of(update.dense())
