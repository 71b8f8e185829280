"""The interface to a platform's attestation that this is a genuine app on a genuine phone.

Examples of such platforms are Play Integrity and App Attest.
"""

from typing import Final, Protocol

from keyflock_server.protocol.messages import EnrolRequest


class Attestation(Protocol):
    """Verifies the evidence that a phone enrols with."""

    @property
    def warning(self) -> str:
        """Return a warning for the operator at start-up if this is too weak for real phones, else nothing."""
        ...

    async def verify(self, evidence: bytes, request: EnrolRequest) -> str | None:
        """Return the platform's name for the installation, if the evidence is valid.

        Returns:
            A name that stays the same when the app is installed anew, so that a quarantine or a limit
            outlasts a new enrolment; None if the platform gives none. Only its keyed digest is stored.
        Raises:
            ApiError: fault of the client; ``attestation_failed``.
        """
        ...


class AcceptAll:
    """Accepts every phone without evidence, for simulations and in-process use."""

    warning: Final = (
        "attestation is off: any program that reaches the SDK port can enrol as a phone; "
        "put a platform verifier in front before real phones"
    )

    async def verify(self, evidence: bytes, request: EnrolRequest) -> None:
        """Accept any evidence; the installation has no name."""
