"""These values describe a phone: what is fixed at installation, and what changes between visits."""

from dataclasses import dataclass, field
from typing import Final, get_args

from keyflock_compression.spec import CodecName
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import Capabilities, Conditions

#: The names of all codecs.
CODECS: Final[tuple[str, ...]] = get_args(CodecName)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """One installed keyboard, as it enrols."""

    population: PopulationName
    app_build: int
    locale: str
    capabilities: Capabilities = field(default_factory=Capabilities)
    #: The platform's attestation evidence.
    attestation: bytes = b""
    #: Identifies the person, when the app can: a secret that it holds, or a statement of its backend.
    user: str | None = None
    #: The phone's performance tier: 0 unknown, 1 low, 2 mid, 3 high.
    tier: int = 0
    #: The groups that the app put it in.
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFacts:
    """The facts that the phone checks by itself; no call carries any of them."""

    #: The number of words ever typed on the phone.
    words_typed: int = 0
    days_of_text: int = 0
    free_storage_bytes: int = 0
    #: Whether the user has switched learning on.
    is_opted_in: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """The state of the phone when it wakes up."""

    conditions: Conditions = field(default_factory=Conditions)
    #: The number of training sequences on the phone.
    examples: int = 0
    #: The maximum size of an upload now; None: no limit.
    upload_budget_bytes: int | None = None
    facts: LocalFacts = field(default_factory=LocalFacts)
