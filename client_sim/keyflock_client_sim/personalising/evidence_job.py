"""What a `personalize` assignment asks of one simulated phone, as a job for a worker: numbers come back.

The head, the history and the words stay in the worker and are gone when the job is done.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from keyflock_client_sim.personalising.learning import learned, mean_and_variance
from keyflock_client_sim.personalising.reader import TrunkReader, in_pieces
from keyflock_client_sim.training.shelf import ModelDigest, ModelShelf
from keyflock_compression import CodecSpec, encode, encode_state
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.neural_scorer import NeuralScorer
from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.evidence import EVIDENCE_LAYOUT, Measured, evidence_of
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.head_fitting import HeadSettings
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.personal.priors import DEFAULT_GAIN
from keyflock_models.tokenizer import tokenize
from keyflock_models.vocabulary import Vocabulary
from keyflock_server.protocol.messages import HeadPlan, PersonalisingPlan, PopulationPrior


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GatherEvidence:
    """Personalise on one phone's messages, and measure what it gives."""

    #: The trunk; publish its bytes first.
    model: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary
    #: The phone's, in the order of typing.
    messages: tuple[str, ...]
    plan: PersonalisingPlan
    #: Wire form of the codec, as the assignment carries it.
    codec: Mapping[str, object]
    #: Of the head's first values.
    seed: int
    #: What it takes on the phone; None: what it takes here.
    seconds: float | None = None

    def run(self, shelf: ModelShelf) -> bytes | None:
        """The evidence as a compression container; None if there are too few words.

        Raises:
            UnknownModelError: The model was not published.
            CodecError: The model's bytes or the codec's wire form are not what this layout and build expect.
            ValueError: The plan's prior is none.
        """
        pieces = [piece for message in self.messages for piece in in_pieces(message)]
        if sum(len(tokenize(piece)) for piece in pieces) < self.plan.words_needed:
            return None
        began_s = time.perf_counter()
        blend, gain = priors_of(self.plan.prior)
        weights = shelf.weights(self.model, ParamLayout.of(self.config))
        trunk = TrunkReader(NeuralScorer(self.config, weights, self.vocabulary), seed=self.seed)
        personal = PersonalModel.new(self.vocabulary, blend, gain)
        judged = learned(personal, trunk, pieces, settings_of(self.plan.head))
        mean, variance = mean_and_variance(judged.blend)
        shown_mean, shown_variance = mean_and_variance(judged.shown)
        measured = Measured(
            words=len(judged.blend),
            gain=mean,
            noise_variance=variance,
            late_gain=mean_and_variance(judged.blend[judged.before_head :])[0],
            shown_gain=shown_mean,
            shown_noise_variance=shown_variance,
            stored_bytes=len(encode_state(personal.to_state())),
            seconds=time.perf_counter() - began_s if self.seconds is None else self.seconds,
        )
        vector = evidence_of(personal, measured)
        return encode(vector, EVIDENCE_LAYOUT, CodecSpec.from_wire(self.codec), seed=self.seed)


def settings_of(plan: HeadPlan) -> HeadSettings:
    """The plan that travels, as the personal model has it."""
    return HeadSettings(**structs.asdict(plan))


def priors_of(prior: PopulationPrior) -> tuple[BlendPrior, GainPrior]:
    """What travels, as the personal model has it.

    Its gain is not taken over: that others gain is no evidence that this user will.

    Raises:
        ValueError: the mixtures are none.
    """
    return BlendPrior(np.array(prior.blend, np.float64), prior.strength), DEFAULT_GAIN
