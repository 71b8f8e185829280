"""All messages of the SDK protocol, as typed, immutable values.

Bodies are msgpack maps with these field names (docs/protocol.md). Unknown fields are ignored in both
directions, so that either side can grow; an unknown ``protocol`` number is refused. Durations, never
instants, travel to phones: a phone's clock is not to be trusted.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import Meta

from keyflock_server.protocol.fields import (
    Count,
    Fraction,
    Locale,
    Message,
    Name,
    Seconds,
    Seed,
    SessionShape,
    Sha256,
    Tag,
    UserProof,
    VersionNumber,
)
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.plans import (
    DeviceRules,
    EvaluatingPlan,
    HeadPlan,
    ModelWeights,
    PersonalisingPlan,
    PopulationPrior,
    TrainingPlan,
)

#: The version of this protocol. A phone that speaks another one is told to upgrade (426).
PROTOCOL: Final = 1


class ReturnWindow(Message, frozen=True, kw_only=True):
    """When the phone should come back: it draws a time uniformly from [min_s, max_s]; later is fine."""

    min_s: Seconds
    max_s: Seconds


# --- enrolment ---------------------------------------------------------------------------------------


class TaskKind(StrEnum):
    """What a task asks a phone to compute."""

    #: The phone trains a delta of the shared model.
    TRAIN = "train"
    #: The phone measures how much personalisation gains; the head stays on the phone.
    PERSONALIZE = "personalize"
    #: The phone scores two versions of the model on text that it never trained on.
    EVALUATE = "evaluate"


class Capabilities(Message, frozen=True, kw_only=True):
    """What this build of the SDK supports; the server never asks for more."""

    #: Names of the codecs that it can encode, by preference. The default is the set of builds that leave this
    #: out: it never grows, and later codecs must be named.
    codecs: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = (
        "deadzone_rows",
        "deadzone",
        "topk",
        "dense",
        "float32",
    )
    #: The largest model download that it accepts, in bytes.
    max_download_bytes: Count = 16_777_216
    #: The kinds of tasks that it supports.
    tasks: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = (
        TaskKind.TRAIN.value,
    )
    #: The fields of ``DeviceRules`` that it checks before it starts to work.
    device_rules: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = ()


class EnrolRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/devices``: a new phone, or (with its old token as bearer) one that refreshes its token."""

    protocol: Count
    population: Name
    app_build: Count
    locale: Locale
    capabilities: Capabilities = Capabilities()
    #: The platform's attestation evidence (Play Integrity, App Attest), opaque to the protocol.
    attestation: Annotated[bytes, Meta(max_length=16_384)] = b""
    #: Names the person, so that several devices of one user share a personal model and can be forgotten
    #: together: a secret of at least 128 random bits that the app holds, or a statement of its backend.
    user: UserProof | None = None
    #: How strong the phone is: 0 unknown, 1 low, 2 mid, 3 high.
    tier: Annotated[int, Meta(ge=0, le=3)] = 0
    #: Groups in which the app puts the device, for example ``beta``; never anything about the person.
    tags: Annotated[tuple[Tag, ...], Meta(max_length=16)] = ()


class Enrolment(Message, frozen=True, kw_only=True):
    """The phone's identity and its bearer token."""

    device: DeviceId
    token: str
    expires_in_s: Seconds
    return_window: ReturnWindow


# --- check-in ----------------------------------------------------------------------------------------


class Conditions(Message, frozen=True, kw_only=True):
    """The phone's present conditions; they are used for this check-in and never stored."""

    is_idle: bool = True
    is_charging: bool = True
    is_unmetered: bool = True
    #: Uploading takes long; a task may ask for a smaller report then.
    is_slow: bool = False
    battery_ratio: Fraction = 1.0
    #: 0 is none, 1 light, 2 moderate, 3 severe, as Android's thermal status counts.
    thermal_status: Annotated[int, Meta(ge=0, le=6)] = 0


class CheckIn(Message, frozen=True, kw_only=True):
    """``POST /v1/check-ins``: the phone has time and asks for work."""

    protocol: Count
    app_build: Count
    locale: Locale
    conditions: Conditions = Conditions()
    #: Number of training sequences on the phone.
    examples: Count = 0
    capabilities: Capabilities = Capabilities()
    #: Maximum size of a delta; if it is left out, the task's codec decides.
    upload_budget_bytes: Annotated[int, Meta(ge=512, le=2**31 - 1)] | None = None


class Assignment(Message, frozen=True, kw_only=True, tag_field="kind", tag="assignment"):
    """Work for this phone in this round."""

    id: AssignmentId
    #: The assignment token; the phone sends it in the header ``Keyflock-Assignment`` of every later call.
    token: str
    task: TaskName
    round: RoundId
    model_version: VersionNumber
    #: SHA-256 of the model's bytes; a phone that has them does not download again.
    model_digest: Sha256
    #: Digest of the parameter layout that the delta must have.
    layout: bytes
    plan: TrainingPlan
    #: Wire form of the ``CodecSpec`` to encode the delta with.
    codec: dict[str, Any]
    #: Seed of the codec's stochastic rounding and of the order of the examples.
    seed: Seed
    expires_in_s: Seconds
    #: The kind of the task, one that the phone's capabilities name.
    task_kind: TaskKind = TaskKind.TRAIN
    #: The plan of a ``personalize`` task, for which, as for ``evaluate``, ``plan`` is unused.
    personalising: PersonalisingPlan | None = None
    #: A phone that does not meet these rules returns the assignment at once, with cause ``not_eligible``.
    device_rules: DeviceRules | None = None
    #: Digest of the model's content (docs/wire_format.md), which a phone checks after applying a delta. None:
    #: it is not known now, and the phone downloads the whole model.
    content_digest: Sha256 | None = None
    #: The plan of an ``evaluate`` task.
    evaluating: EvaluatingPlan | None = None


class RefusalReason(StrEnum):
    """Why there is no work now: a closed list. A refusal is a normal answer, not an error."""

    NO_ACTIVE_TASK = "no_active_task"
    ROUND_FULL = "round_full"
    NOT_ELIGIBLE = "not_eligible"
    NOT_SAMPLED = "not_sampled"
    TOO_SOON = "too_soon"
    APP_TOO_OLD = "app_too_old"
    PAUSED = "paused"
    OVERLOADED = "overloaded"
    QUARANTINED = "quarantined"
    BUDGET_EXHAUSTED = "budget_exhausted"


class Refusal(Message, frozen=True, kw_only=True, tag_field="kind", tag="refusal"):
    """There is no work now: why, and when to return."""

    reason: RefusalReason
    return_window: ReturnWindow
    #: One sentence for the SDK's log: which rule refused, and by which value.
    detail: str = ""


CheckInAnswer = Assignment | Refusal

# --- offer, report, failure --------------------------------------------------------------------------


class Offer(Message, frozen=True, kw_only=True):
    """``POST /v1/assignments/{id}/offer``: the phone asks whether to upload before it uses its data plan."""

    size_bytes: Count
    model_version: VersionNumber


class OfferAction(StrEnum):
    """What the phone should do with a finished delta."""

    SEND = "send"
    #: The goal is met or the round is over: do not upload.
    DROP = "drop"
    #: There is a newer model: check in again for it.
    REBASE = "rebase"


class OfferAnswer(Message, frozen=True, kw_only=True):
    """The server's answer to an offer."""

    action: OfferAction
    return_window: ReturnWindow
    detail: str = ""


class Report(Message, frozen=True, kw_only=True):
    """``PUT /v1/assignments/{id}/report``: the delta and the phone's measurements."""

    #: A compression container (docs/protocol.md, "The delta").
    delta: bytes
    #: Number of training sequences used; the phone's own claim, so the server caps it.
    examples: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    #: Mean loss of the first batch, in nats per token.
    loss_before: float | None = None
    #: Mean loss of the last batch, in nats per token.
    loss_after: float | None = None
    #: Seconds of training on the phone.
    train_s: Seconds | None = None
    #: The steps that the phone went through so far, one character each (docs/protocol.md).
    session_shape: SessionShape = ""


class Receipt(Message, frozen=True, kw_only=True):
    """The report is in the aggregate, durably and exactly once."""

    counted: bool
    duplicate: bool = False
    return_window: ReturnWindow


class FailureCause(StrEnum):
    """Why a phone returns its assignment."""

    INTERRUPTED = "interrupted"
    NO_EXAMPLES = "no_examples"
    DOWNLOAD_FAILED = "download_failed"
    TRAINING_FAILED = "training_failed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    NOT_ELIGIBLE = "not_eligible"


class Failure(Message, frozen=True, kw_only=True):
    """``POST /v1/assignments/{id}/failure``: no delta will come."""

    cause: FailureCause
    session_shape: SessionShape = ""


class FailureAck(Message, frozen=True, kw_only=True):
    """The server has recorded the failure."""

    return_window: ReturnWindow


# --- models ------------------------------------------------------------------------------------------


class Personalisation(Message, frozen=True, kw_only=True):
    """The results of ``personalize`` rounds: the prior that a phone begins with, and how it fits a head."""

    prior: PopulationPrior
    head: HeadPlan
    #: The last round with these results, and how many phones took part in it.
    round: RoundId
    phones: Count


class Release(Message, frozen=True, kw_only=True):
    """``GET /v1/populations/{name}/release``: the version that keyboards should use."""

    population: PopulationName
    model_version: VersionNumber
    model_digest: Sha256
    size_bytes: Count
    #: Digest of the vocabulary that the model's rows stand for.
    vocabulary: str
    layout: bytes
    #: None until a ``personalize`` round has closed; the SDK begins with its own prior.
    personalisation: Personalisation | None = None
    #: Which weights of the version to use, and so where to download them.
    weights: ModelWeights = ModelWeights.TRAINING
    #: The same digest as in an assignment.
    content_digest: Sha256 | None = None
    #: Names and shapes of the model's tensors: the JSON text that ``layout`` is the digest of.
    tensors: str = ""


class Forgotten(Message, frozen=True, kw_only=True):
    """``DELETE /v1/devices/me``: all data of the device, or (``?scope=user``) of its user, is deleted."""

    devices: Count
    #: Number of stored personal models that were deleted with them.
    heads: Count = 0
    #: Whether their bytes have been overwritten in the store's files; if not, the server keeps trying.
    is_scrubbed: bool = True


# --- heads and suggestions ---------------------------------------------------------------------------


class HeadStored(Message, frozen=True, kw_only=True):
    """``PUT /v1/heads/{population}``: the personal model is stored under this tag."""

    #: The value inside the ETag.
    tag: bytes
    size_bytes: Count


class HeadErased(Message, frozen=True, kw_only=True):
    """``DELETE /v1/heads/{population}``: the personal model is deleted."""

    heads: Count
    #: The same as in ``Forgotten``.
    is_scrubbed: bool = True


class Blend(StrEnum):
    """Which models the suggested words come from."""

    #: The shared model alone.
    GLOBAL = "global"
    #: The user's own model, without the shared one.
    PERSONAL = "personal"
    #: Both, as far as the user's gate is open for the personal model.
    BLENDED = "blended"


#: Excludes control characters other than tab and line ends, because a keyboard types none.
_TYPED: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*\Z"
#: Excludes spaces, too, because a word has none.
_LETTERS: Final = r"^[^\s\x00-\x1f\x7f-\x9f]*\Z"


class SuggestionRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/suggestions``: the text so far, and how many words to suggest. Never stored or logged."""

    #: The message so far, without the word that is being typed.
    context: Annotated[str, Meta(max_length=2_000, pattern=_TYPED)]
    #: The letters of that word so far.
    prefix: Annotated[str, Meta(max_length=48, pattern=_LETTERS)] = ""
    k: Annotated[int, Meta(ge=1, le=10)] = 3
    blend: Blend = Blend.BLENDED


class Suggestion(Message, frozen=True, kw_only=True):
    """One suggested word."""

    word: str
    #: Its probability among the words that begin with the prefix.
    probability: float


class Suggestions(Message, frozen=True, kw_only=True):
    """The suggested words, most probable first; fewer than requested if no more begin with the prefix."""

    suggestions: tuple[Suggestion, ...]
    model_version: VersionNumber
    #: The blend that was used: global when nothing is stored for the user, or when the gate is shut.
    blend: Blend


__all__ = [name for name in dir() if name[0].isupper()]
