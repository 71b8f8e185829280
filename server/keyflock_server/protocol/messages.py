"""Every message of the SDK protocol as a typed, immutable value.

Bodies are msgpack maps with these field names (docs/protocol.md). Unknown fields are ignored in both
directions, so that either side can grow; an unknown ``protocol`` number is refused. Durations, never
instants, travel to phones: a phone's clock is not to be trusted.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)

#: The version of this protocol. A phone that speaks another one is told to upgrade (426).
PROTOCOL: Final = 1

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*\Z")]
Locale = Annotated[str, Meta(min_length=2, max_length=35, pattern=r"^[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*\Z")]
#: A secret that the app holds, or a signed statement of its backend.
UserProof = Annotated[str, Meta(min_length=1, max_length=4_096)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=31_536_000.0)]
Sha256 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Tag = Annotated[str, Meta(min_length=1, max_length=32, pattern=r"^[a-z0-9][a-z0-9_.\-]*\Z")]


#: By how the user's history matches the context, and by expert: trunk, head, n-gram, cache. Rows add up to 1.
Mixtures = Annotated[
    tuple[Annotated[tuple[Fraction, ...], Meta(min_length=4, max_length=4)], ...],
    Meta(min_length=7, max_length=7),
]


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages; says how they are written: by field name, defaults left out."""


class ReturnWindow(Message, frozen=True, kw_only=True):
    """When the phone should come back: it draws uniformly from [min_s, max_s]; later is fine."""

    min_s: Seconds
    max_s: Seconds


# --- enrolment ---------------------------------------------------------------------------------------


class TaskKind(StrEnum):
    """What a task wants of a phone."""

    #: A delta of the shared model.
    TRAIN = "train"
    #: How much personalisation gains on the phone; the head stays there.
    PERSONALIZE = "personalize"


class Capabilities(Message, frozen=True, kw_only=True):
    """What this build of the SDK can do; the server never asks for more."""

    #: Codec names it can encode, by preference. The default is what builds know that say nothing here: it
    #: never grows, and a codec that came later is named.
    codecs: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = (
        "deadzone_rows",
        "deadzone",
        "topk",
        "dense",
        "float32",
    )
    #: The largest model download it accepts, in bytes.
    max_download_bytes: Count = 16_777_216
    #: Kinds of tasks that it can do.
    tasks: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = (
        TaskKind.TRAIN.value,
    )
    #: Fields of ``DeviceRules`` that it checks before it does anything.
    device_rules: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(max_length=16)] = ()


class EnrolRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/devices``: a new phone, or (with its old token as bearer) one that refreshes its token."""

    protocol: int
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
    #: Groups that the app puts the device in, for example ``beta``; never anything about the person.
    tags: Annotated[tuple[Tag, ...], Meta(max_length=16)] = ()


class Enrolment(Message, frozen=True, kw_only=True):
    """The phone's identity and its bearer token."""

    device: DeviceId
    token: str
    expires_in_s: Seconds
    return_window: ReturnWindow


# --- check-in ----------------------------------------------------------------------------------------


class Conditions(Message, frozen=True, kw_only=True):
    """What the phone says of itself at this moment; used for this check-in and never stored."""

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

    protocol: int
    app_build: Count
    locale: Locale
    conditions: Conditions = Conditions()
    #: Training sequences at hand.
    examples: Count = 0
    capabilities: Capabilities = Capabilities()
    #: The most that a delta may take; left out, whatever the task's codec makes of it.
    upload_budget_bytes: Annotated[int, Meta(ge=512, le=2**31 - 1)] | None = None


class TrainingPlan(Message, frozen=True, kw_only=True):
    """How to train on the phone: everything that changes the mathematics."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=100.0)]
    epochs: Annotated[int, Meta(ge=1, le=100)] = 1
    batch_size: Annotated[int, Meta(ge=1, le=1024)] = 16
    #: Input tokens a sequence; longer messages are cut into several.
    sequence_length: Annotated[int, Meta(ge=2, le=256)] = 20
    #: At most this many sequences are used.
    max_examples: Annotated[int, Meta(ge=1, le=100_000)] = 256
    #: Upper bound on the L2 norm of each batch's gradient; 0 is no bound.
    gradient_clip_norm: Annotated[float, Meta(ge=0.0)] = 0.0
    #: Sampled negative words of the candidate softmax; 0 is the full softmax.
    candidates: Annotated[int, Meta(ge=0, le=100_000)] = 0


class HeadPlan(Message, frozen=True, kw_only=True):
    """How to fit a user's head on the phone."""

    #: Of the adapter; 0 fits the biases alone.
    rank: Annotated[int, Meta(ge=0, le=64)] = 8
    #: Words with a bias of their own, the user's most frequent.
    biases: Annotated[int, Meta(ge=0, le=1024)] = 256
    #: Of Adam.
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.01
    epochs: Annotated[int, Meta(ge=1, le=100)] = 12
    #: Times the squared norm, added to the mean loss.
    l2: Annotated[float, Meta(ge=0.0, le=100.0)] = 1e-3
    #: Latest share of the user's words on which the epochs are judged.
    held_out_ratio: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2


class PopulationPrior(Message, frozen=True, kw_only=True):
    """What is believed of a user before a word was typed."""

    blend: Mixtures
    #: In words: so many predictions of the user's own weigh as much as the population's mixture.
    strength: Annotated[float, Meta(gt=0.0, le=1e6)]
    #: What users gain: hits in the first three, a word; and how much they differ.
    gain_mean: Annotated[float, Meta(ge=-1.0, le=1.0)]
    gain_deviation: Annotated[float, Meta(gt=0.0, le=1.0)]


class ModelWeights(StrEnum):
    """Which weights of a model version: where there is no average, both are the same bytes."""

    #: ``GET /v1/models/{version}``: what rounds train from.
    TRAINING = "training"
    #: ``GET /v1/models/{version}/release``: what keyboards serve, the average of the versions so far.
    RELEASED = "released"


class PersonalisingPlan(Message, frozen=True, kw_only=True):
    """How to personalise on the phone, and measure what it gives."""

    head: HeadPlan
    prior: PopulationPrior
    #: A phone with fewer words gives the assignment back.
    words_needed: Annotated[int, Meta(ge=1, le=1_000_000)]
    #: Which weights the assignment's ``model_digest`` is of; a head is fitted on those that keyboards serve.
    weights: ModelWeights = ModelWeights.TRAINING


class DeviceRules(Message, frozen=True, kw_only=True):
    """What only the phone can know: it checks before it downloads, and never says which rule it broke."""

    #: Words typed since this device trained last.
    min_words_since_training: Count = 0
    #: Days on which anything was typed that is still there to train on.
    min_days_of_text: Count = 0
    #: Free space on the phone.
    min_free_storage_bytes: Annotated[int, Meta(ge=0, le=2**62)] = 0
    #: The user has switched learning on, on this phone.
    require_opt_in: bool = False


class Assignment(Message, frozen=True, kw_only=True, tag_field="kind", tag="assignment"):
    """Work for this phone in this round."""

    id: AssignmentId
    #: Signed and stateless; goes back in the header ``Keyflock-Assignment`` of every later call.
    token: str
    task: TaskName
    round: RoundId
    model_version: ModelVersion
    #: SHA-256 of the model's bytes; a phone that has them does not download again.
    model_digest: Sha256
    #: Digest of the parameter layout that the delta must have.
    layout: bytes
    plan: TrainingPlan
    #: Wire form of the ``CodecSpec`` to encode the delta with.
    codec: dict[str, Any]
    #: Seed of the codec's stochastic rounding and of the order of the examples.
    seed: int
    expires_in_s: Seconds
    #: Only what the phone's capabilities name.
    task_kind: TaskKind = TaskKind.TRAIN
    #: Of ``personalize``, where ``plan`` means nothing.
    personalising: PersonalisingPlan | None = None
    #: A phone that does not keep them gives the assignment back at once: cause ``not_eligible``.
    device_rules: DeviceRules | None = None
    #: Of what the model's bytes say (docs/wire_format.md): what a phone checks that got a delta and put the
    #: model together itself. None: it is not known now, and the phone asks for the whole.
    content_digest: Sha256 | None = None


class RefusalReason(StrEnum):
    """Why there is no work now. A closed list: business as usual, not an error."""

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
    """No work now, why, and when to return."""

    reason: RefusalReason
    return_window: ReturnWindow
    #: One sentence for the SDK's log: which rule, which value.
    detail: str = ""


CheckInAnswer = Assignment | Refusal

# --- offer, report, failure --------------------------------------------------------------------------


class Offer(Message, frozen=True, kw_only=True):
    """``POST /v1/assignments/{id}/offer``: what the phone would upload, before it spends the data."""

    size_bytes: Count
    model_version: ModelVersion


class OfferAction(StrEnum):
    """What to do with a finished delta."""

    SEND = "send"
    #: The goal is met or the round is gone: keep the data plan.
    DROP = "drop"
    #: The model has moved on: check in again for the newer one.
    REBASE = "rebase"


class OfferAnswer(Message, frozen=True, kw_only=True):
    """The server's answer to an offer."""

    action: OfferAction
    return_window: ReturnWindow
    detail: str = ""


class Report(Message, frozen=True, kw_only=True):
    """``PUT /v1/assignments/{id}/report``: the delta and what the phone measured."""

    #: A compression container (docs/protocol.md, "The delta").
    delta: bytes
    #: Training sequences used: the phone's own claim, so the server caps it.
    examples: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    #: Mean loss of the first batch, nats a token.
    loss_before: float | None = None
    #: Mean loss of the last batch, nats a token.
    loss_after: float | None = None
    #: Seconds of training on the phone.
    train_s: Seconds | None = None
    #: What the phone went through so far, a character a step (docs/protocol.md).
    session_shape: Annotated[str, Meta(max_length=32, pattern=r"^[-v\[\]+^#*!]*\Z")] = ""


class Receipt(Message, frozen=True, kw_only=True):
    """The report is in the aggregate, durably and once."""

    counted: bool
    duplicate: bool = False
    return_window: ReturnWindow


class FailureCause(StrEnum):
    """Why a phone gives its assignment back."""

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
    session_shape: Annotated[str, Meta(max_length=32, pattern=r"^[-v\[\]+^#*!]*\Z")] = ""


class Noted(Message, frozen=True, kw_only=True):
    """The server has taken note."""

    return_window: ReturnWindow


# --- models ------------------------------------------------------------------------------------------


class Personalisation(Message, frozen=True, kw_only=True):
    """What ``personalize`` rounds have found: what a phone begins with, and how it fits a head."""

    prior: PopulationPrior
    head: HeadPlan
    #: The round that said so last, and how many phones took part in it.
    round: RoundId
    phones: Count


class Release(Message, frozen=True, kw_only=True):
    """``GET /v1/populations/{name}/release``: what keyboards should serve."""

    population: PopulationName
    model_version: ModelVersion
    model_digest: Sha256
    size_bytes: Count
    #: Digest of the vocabulary that the model's rows mean.
    vocabulary: str
    layout: bytes
    #: None until a ``personalize`` round has closed: the SDK begins with its own.
    personalisation: Personalisation | None = None
    #: Which weights of the version they are: where to download them.
    weights: ModelWeights = ModelWeights.TRAINING
    #: As the assignment's.
    content_digest: Sha256 | None = None


class Forgotten(Message, frozen=True, kw_only=True):
    """``DELETE /v1/devices/me``: everything about the device, or (``?scope=user``) its user, is gone."""

    devices: Count
    #: Stored heads that went with them.
    heads: Count = 0
    #: Whether their bytes have been overwritten in the store's files already; else the server goes on trying.
    is_scrubbed: bool = True


# --- heads and suggestions ---------------------------------------------------------------------------


class HeadStored(Message, frozen=True, kw_only=True):
    """``PUT /v1/heads/{population}``: the head is kept, under this tag."""

    #: The ETag's inside.
    tag: bytes
    size_bytes: Count


class HeadErased(Message, frozen=True, kw_only=True):
    """``DELETE /v1/heads/{population}``: nothing is kept any more."""

    heads: Count
    #: As in ``Forgotten``.
    is_scrubbed: bool = True


class Blend(StrEnum):
    """Whose words are suggested."""

    #: The shared model's.
    GLOBAL = "global"
    #: The user's own, without the shared model.
    PERSONAL = "personal"
    #: Both, as far as the user's gate is open.
    BLENDED = "blended"


#: No control character but tab and the ends of lines: a keyboard types none.
_TYPED: Final = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*\Z"
#: Nor any space: a word's first letters have none.
_LETTERS: Final = r"^[^\s\x00-\x1f\x7f-\x9f]*\Z"


class SuggestionRequest(Message, frozen=True, kw_only=True):
    """``POST /v1/suggestions``: what was typed, and what is wanted. Never stored, never logged."""

    #: The message so far, without the word that is being typed.
    context: Annotated[str, Meta(max_length=2_000, pattern=_TYPED)]
    #: The letters of that word so far.
    prefix: Annotated[str, Meta(max_length=48, pattern=_LETTERS)] = ""
    k: Annotated[int, Meta(ge=1, le=10)] = 3
    blend: Blend = Blend.BLENDED


class Suggestion(Message, frozen=True, kw_only=True):
    """One word."""

    word: str
    #: Among the words that begin with the prefix.
    probability: float


class Suggestions(Message, frozen=True, kw_only=True):
    """The answer, most probable first; fewer than asked for when no more words begin with the prefix."""

    suggestions: tuple[Suggestion, ...]
    model_version: ModelVersion
    #: What was used: global when nothing is stored for the user, or when the gate is shut.
    blend: Blend


__all__ = [name for name in dir() if name[0].isupper()]
