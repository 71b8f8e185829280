"""What does not change while the keyboard is installed, and what does from one visit to the next."""

from dataclasses import dataclass, field

from keyflock_server.protocol.identifiers import PopulationName, UserId
from keyflock_server.protocol.messages import Capabilities, Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installed keyboard, as it introduces itself."""

    population: PopulationName
    app_build: int
    locale: str
    capabilities: Capabilities = field(default_factory=Capabilities)
    #: The platform's attestation evidence.
    attestation: bytes = b""
    #: A pseudonym of the person, when the app has one.
    user: UserId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the phone finds when it wakes up."""

    conditions: Conditions = field(default_factory=Conditions)
    #: Training sequences at hand.
    examples: int = 0
