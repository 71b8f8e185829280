"""What a device can ask for. It asks for one thing at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_server.protocol.calls import Call, Request
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion
from keyflock_server.protocol.messages import Assignment, PersonalisingPlan, TrainingPlan


@dataclass(frozen=True, slots=True)
class Wait:
    """Wake me at this time or later; answered by ``Woke``."""

    #: On the clock that ``now_s`` is read from.
    until_s: float
    #: True: not before the phone is idle and charging, as a job scheduler promises. False: the pause before a
    #: call goes out again; as soon as the time has come.
    when_idle: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to the server; answered by ``Answered`` or ``CallLost``."""

    #: Which endpoint it is.
    call: Call
    request: Request
    #: 1 for the first time that these bytes go out.
    attempt: int


@dataclass(frozen=True, slots=True)
class Store:
    """Keep a model's bytes under their digest; answered by ``Stored``."""

    #: SHA-256 of the body.
    digest: bytes
    body: bytes
    #: Kept until now, and not needed any more.
    forget: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Make a model out of one that is stored, and keep it; answered by ``Stored`` or ``PatchFailed``."""

    #: What the new model is stored under: SHA-256 of its whole download.
    digest: bytes
    #: The model that is stored under this digest is what the delta applies to.
    base: bytes
    delta: bytes
    #: What the new model must have.
    content_digest: bytes
    #: Kept until now, and not needed any more once this is.
    forget: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train on the phone's own sequences; answered by ``Trained`` or ``TrainingFailed``."""

    assignment: AssignmentId
    #: Where to start from: a model that is stored under this digest.
    model_digest: bytes
    model_version: ModelVersion
    #: Digest of the parameter layout that the delta must have.
    layout: bytes
    plan: TrainingPlan
    #: Wire form of the codec to encode the delta with.
    codec: Mapping[str, object]
    #: Order of the examples, and the codec's stochastic rounding.
    seed: int
    #: No use in going on after that.
    expires_at_s: float
    #: Given: personalise by this plan instead of training, and measure what it gives.
    personalising: PersonalisingPlan | None = None

    @classmethod
    def of(cls, assignment: Assignment, expires_at_s: float) -> "Train":
        """What an assignment asks for."""
        return cls(
            assignment=assignment.id,
            model_digest=assignment.model_digest,
            model_version=assignment.model_version,
            layout=assignment.layout,
            plan=assignment.plan,
            codec=assignment.codec,
            seed=assignment.seed,
            expires_at_s=expires_at_s,
            personalising=assignment.personalising,
        )


Effect = Wait | Send | Store | Patch | Train
