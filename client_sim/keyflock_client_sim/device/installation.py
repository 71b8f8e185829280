"""What does not change while the keyboard is installed, and what does from one visit to the next."""

from dataclasses import dataclass, field
from typing import Final, get_args

from keyflock_compression.spec import CodecName
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Capabilities, Conditions

#: All there are.
CODECS: Final[tuple[str, ...]] = get_args(CodecName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installed keyboard, as it introduces itself."""

    population: PopulationName
    app_build: int
    locale: str
    capabilities: Capabilities = field(default_factory=Capabilities)
    #: The platform's attestation evidence.
    attestation: bytes = b""
    #: Names the person, when the app can: a secret that it holds, or a statement of its backend.
    user: str | None = None
    #: How strong the phone is: 0 unknown, 1 low, 2 mid, 3 high.
    tier: int = 0
    #: Groups that the app put it in.
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFacts:
    """What the phone checks by itself; no call carries any of it."""

    #: All words ever typed on it.
    words_typed: int = 0
    days_of_text: int = 0
    free_storage_bytes: int = 0
    #: The user has switched learning on.
    is_opted_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the phone finds when it wakes up."""

    conditions: Conditions = field(default_factory=Conditions)
    #: Training sequences at hand.
    examples: int = 0
    #: The most that an upload may take now.
    upload_budget_bytes: int | None = None
    facts: LocalFacts = field(default_factory=LocalFacts)
