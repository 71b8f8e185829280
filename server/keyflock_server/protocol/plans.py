"""The plans that an assignment carries: how a phone trains or personalises, and when it may."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from keyflock_server.protocol.fields import (
    Count,
    Message,
    Mixtures,
    Sha256,
    VersionNumber,
)


class TrainingPlan(Message, frozen=True, kw_only=True):
    """How to train on the phone: all parameters that change the result."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=100.0)]
    epochs: Annotated[int, Meta(ge=1, le=100)] = 1
    batch_size: Annotated[int, Meta(ge=1, le=1024)] = 16
    #: Input tokens per sequence; longer messages are cut into several.
    sequence_length: Annotated[int, Meta(ge=2, le=256)] = 20
    #: Maximum number of sequences that are used.
    max_examples: Annotated[int, Meta(ge=1, le=100_000)] = 256
    #: Upper bound on the L2 norm of each batch's gradient; 0 is no bound.
    gradient_clip_norm: Annotated[float, Meta(ge=0.0)] = 0.0
    #: Sampled negative words of the candidate softmax; 0 is the full softmax.
    candidates: Annotated[int, Meta(ge=0, le=100_000)] = 0


class HeadPlan(Message, frozen=True, kw_only=True):
    """How to fit a user's head on the phone, with Adam."""

    #: Rank of the adapter; with 0 only the biases are fitted.
    rank: Annotated[int, Meta(ge=0, le=64)] = 8
    #: Number of words with their own bias, the user's most frequent ones.
    biases: Annotated[int, Meta(ge=0, le=1024)] = 256
    #: Adam's learning rate.
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.01
    epochs: Annotated[int, Meta(ge=1, le=100)] = 12
    #: Factor of the squared norm that is added to the mean loss.
    l2: Annotated[float, Meta(ge=0.0, le=100.0)] = 1e-3
    #: Share of the user's latest words on which the epochs are evaluated.
    held_out_ratio: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2


class PopulationPrior(Message, frozen=True, kw_only=True):
    """The population's prior for a user who has typed nothing yet."""

    blend: Mixtures
    #: Number of the user's own predictions that weigh as much as the population's mixture.
    strength: Annotated[float, Meta(gt=0.0, le=1e6)]
    #: Mean and standard deviation over users of the gain in top-3 hits per word.
    gain_mean: Annotated[float, Meta(ge=-1.0, le=1.0)]
    gain_deviation: Annotated[float, Meta(gt=0.0, le=1.0)]


class ModelWeights(StrEnum):
    """Which weights of a model version; without an average, both are the same bytes."""

    #: ``GET /v1/models/{version}``: the weights that rounds train from.
    TRAINING = "training"
    #: ``GET /v1/models/{version}/release``: the weights for keyboards, the average of the versions so far.
    RELEASED = "released"


class PersonalisingPlan(Message, frozen=True, kw_only=True):
    """How to personalise on the phone, and how to measure the gain."""

    head: HeadPlan
    prior: PopulationPrior
    #: Minimum number of words; a phone with fewer returns the assignment.
    words_needed: Annotated[int, Meta(ge=1, le=1_000_000)]
    #: The weights that the assignment's ``model_digest`` refers to; a head is fitted on those keyboards use.
    weights: ModelWeights = ModelWeights.TRAINING


class EvaluatingPlan(Message, frozen=True, kw_only=True):
    """How to score two versions on text that was never trained on: the assignment's model and a baseline."""

    baseline_version: VersionNumber
    #: SHA-256 of the baseline's bytes.
    baseline_digest: Sha256
    #: What to measure, in the order of the report's numbers.
    metrics: Annotated[tuple[Annotated[str, Meta(max_length=32)], ...], Meta(min_length=1, max_length=16)]
    #: Minimum number of such words; a phone with fewer returns the assignment.
    words_needed: Annotated[int, Meta(ge=1, le=1_000_000)]
    #: Digest of the baseline's content, as the assignment's ``content_digest``.
    baseline_content_digest: Sha256 | None = None
    #: The weights that ``baseline_digest`` refers to, and so where to download them.
    baseline_weights: ModelWeights = ModelWeights.TRAINING
    #: The weights that the assignment's ``model_digest`` refers to.
    weights: ModelWeights = ModelWeights.TRAINING


class DeviceRules(Message, frozen=True, kw_only=True):
    """Rules that only the phone can check: it does so before it downloads, and never reports which failed."""

    #: Minimum number of words typed since this device trained last.
    min_words_since_training: Count = 0
    #: Minimum number of days with typed text that is still there to train on.
    min_days_of_text: Count = 0
    #: Minimum free space on the phone.
    min_free_storage_bytes: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0
    #: Whether the user must have switched learning on, on this phone.
    require_opt_in: bool = False
