"""Is this a genuine app on a genuine phone? The door for a platform's answer (Play Integrity, App Attest)."""

from typing import Final, Protocol

from keyflock_server.protocol.messages import EnrolRequest


class Attestation(Protocol):
    """Judges the evidence that a phone enrols with."""

    @property
    def warning(self) -> str:
        """One sentence for the operator at start-up when this is weaker than real phones need, or nothing."""
        ...

    async def verify(self, evidence: bytes, request: EnrolRequest) -> str | None:
        """Return what the platform says the installation is, when the evidence is good.

        Returns:
            A name that stays the same when the app is installed anew, so that a quarantine or a limit holds
            over a new enrolment; None where the platform gives none. It is stored as a keyed digest only.
        Raises:
            Refused: fault of the client; ``attestation_failed``.
        """
        ...


class AcceptAll:
    """Takes every phone at its word: for simulations and embedded use."""

    warning: Final = (
        "attestation is off: any program that reaches the SDK port can enrol as a phone; "
        "put a platform verifier in front before real phones"
    )

    async def verify(self, evidence: bytes, request: EnrolRequest) -> None:
        """Accept, and know nothing of the installation."""
