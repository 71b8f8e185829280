"""This worker job does what a `personalize` assignment asks of one simulated phone: it returns numbers only.

The head, the history and the words stay in the worker and are deleted when the job is done.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from keyflock_client_sim.personalising.learning import learn_messages, mean_and_variance
from keyflock_client_sim.personalising.reader import TrunkReader, split_message
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_compression import encode, encode_state, parse_spec
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, PersonalMeasurements, encode_evidence
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.head_fitting import HeadSettings
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.priors import DEFAULT_GAIN
from keyflock_models.personal.typed_secrets import words_without_secrets
from keyflock_models.text.vocabulary import Vocabulary
from keyflock_server.protocol.plans import HeadPlan, PersonalisingPlan, PopulationPrior


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GatherEvidence:
    """A job that personalises on one phone's messages, and measures the gain."""

    #: The trunk; publish its bytes first.
    model: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary
    #: The phone's messages, in the order of typing.
    messages: tuple[str, ...]
    plan: PersonalisingPlan
    #: The codec in its wire form, as the assignment carries it.
    codec: Mapping[str, object]
    #: Decides the head's first values.
    seed: int
    #: The duration on the phone; None: the duration here.
    seconds: float | None = None

    def run(self, models: ModelFolder) -> bytes | None:
        """Return the evidence as a compression container; None if there are too few words.

        Raises:
            UnknownModelError: The model was not published.
            CodecError: The model's bytes or the codec's wire form are not what this layout and build expect.
            ValueError: The plan's prior is invalid.
        """
        pieces = [piece for message in self.messages for piece in split_message(message)]
        words = sum(len(words_without_secrets(piece, self.vocabulary)) for piece in pieces)
        if words < self.plan.words_needed:
            return None
        began_s = time.perf_counter()
        blend, gain = priors_of(self.plan.prior)
        weights = models.weights(self.model, ParamLayout.for_config(self.config))
        trunk = TrunkReader(NeuralScorer(self.config, weights, self.vocabulary), seed=self.seed)
        personal = PersonalModel.new(self.vocabulary, blend, gain)
        judged = learn_messages(personal, trunk, pieces, settings_of(self.plan.head))
        mean, variance = mean_and_variance(judged.blend)
        shown_mean, shown_variance = mean_and_variance(judged.shown)
        measured = PersonalMeasurements(
            words=len(judged.blend),
            gain=mean,
            noise_variance=variance,
            late_gain=mean_and_variance(judged.blend[judged.before_head :])[0],
            shown_gain=shown_mean,
            shown_noise_variance=shown_variance,
            stored_bytes=len(encode_state(personal.to_state())),
            seconds=time.perf_counter() - began_s if self.seconds is None else self.seconds,
        )
        vector = encode_evidence(personal, measured)
        return encode(vector, EVIDENCE_LAYOUT, parse_spec(self.codec), seed=self.seed)


def settings_of(plan: HeadPlan) -> HeadSettings:
    """Return the wire plan as settings of the personal model."""
    return HeadSettings(**structs.asdict(plan))


def priors_of(prior: PopulationPrior) -> tuple[BlendPrior, GainPrior]:
    """Return the wire prior as priors of the personal model.

    Its gain is not taken over: that others gain is no evidence that this user will.

    Raises:
        ValueError: the mixtures are invalid.
    """
    return BlendPrior(np.array(prior.blend, np.float64), prior.strength), DEFAULT_GAIN
