"""These are the effects that a device can ask for. It asks for one at a time."""

from collections.abc import Mapping
from dataclasses import dataclass

from keyflock_server.protocol.calls import Call, Request
from keyflock_server.protocol.identifiers import AssignmentId, ModelVersion
from keyflock_server.protocol.messages import Assignment
from keyflock_server.protocol.plans import EvaluatingPlan, PersonalisingPlan, TrainingPlan


@dataclass(frozen=True, slots=True)
class Wait:
    """Wake me at this time or later; answered by ``Woke``."""

    #: A time on the clock that ``now_s`` is read from.
    until_s: float
    #: True: wait until the phone is idle and charging, as a job scheduler promises. False: the pause before a
    #: call goes out again; as soon as the time has come.
    when_idle: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Send this to the server; answered by ``Answered`` or ``CallLost``."""

    #: The endpoint.
    call: Call
    request: Request
    #: 1 for the first time that these bytes go out.
    attempt: int


@dataclass(frozen=True, slots=True)
class StoreModel:
    """Store a model's bytes under their digest; answered by ``ModelStored``."""

    #: SHA-256 of the body.
    digest: bytes
    body: bytes
    #: Models that are not needed any more.
    evicted: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchModel:
    """Patch a stored model into a new one, and store it; answered by ``ModelStored`` or ``PatchFailed``."""

    #: The digest that the new model is stored under: SHA-256 of its whole download.
    digest: bytes
    #: The delta applies to the model that is stored under this digest.
    base: bytes
    delta: bytes
    #: The content digest that the new model must have.
    content_digest: bytes
    #: Models that are not needed any more once this one is stored.
    evicted: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Train on the phone's own sequences; answered by ``Trained`` or ``TrainingFailed``."""

    assignment: AssignmentId
    #: Training starts from the model that is stored under this digest.
    model_digest: bytes
    model_version: ModelVersion
    #: The digest of the parameter layout that the delta must have.
    layout: bytes
    plan: TrainingPlan
    #: The codec of the delta, in its wire form.
    codec: Mapping[str, object]
    #: Decides the order of the examples, and the codec's stochastic rounding.
    seed: int
    #: After that time the result is of no use.
    expires_at_s: float
    #: If given, the phone personalises by this plan instead of training, and measures the gain.
    personalising: PersonalisingPlan | None = None
    #: If given, the phone scores two versions by this plan instead of training.
    evaluating: EvaluatingPlan | None = None

    @classmethod
    def of(cls, assignment: Assignment, expires_at_s: float) -> "Train":
        """Return the training that an assignment asks for."""
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
            evaluating=assignment.evaluating,
        )


Effect = Wait | Send | StoreModel | PatchModel | Train
