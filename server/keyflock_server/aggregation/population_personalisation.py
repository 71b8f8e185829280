"""What ``personalize`` rounds have found of a population: the priors phones begin with, and the best head.

Each round tries one candidate for the head's settings and asks every phone what it gained. The mean of the
answers moves the priors; its gain is entered with the candidate, and the candidate with the largest one is
what the population's phones fit. A candidate's gain is a running mean that forgets: the trunk goes on
learning, so what a head gave on an old one counts for less with every round.

Source: Khodak et al. 2021, arXiv:2106.04502 (federated hyper-parameter tuning by comparing configurations in
rounds), without its exponentiated gradient: there are few candidates, and each is measured directly.
"""

from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.evidence import population_of, with_floors
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import HeadPlan, Personalisation, PopulationPrior

#: What the phones of a candidate's earlier rounds are worth when it is tried again.
KEPT_RATIO: Final = 0.5


class Candidate(Struct, frozen=True, kw_only=True):
    """One setting of heads, and what it gave."""

    head: HeadPlan
    #: Phones behind the gain; earlier ones count less.
    phones: float
    #: Hits in the first three, a word, after the head was fitted.
    gain: float


class PopulationPersonalisation(Struct, frozen=True, kw_only=True):
    """All that is known, as it is stored with the population."""

    prior: PopulationPrior
    #: As many as were ever tried and are still candidates; best first.
    candidates: tuple[Candidate, ...]
    #: The last round, and its phones.
    round: RoundId
    phones: int

    @property
    def head(self) -> HeadPlan:
        """The best candidate so far."""
        return self.candidates[0].head

    def release(self) -> Personalisation:
        """What phones are told."""
        return Personalisation(prior=self.prior, head=self.head, round=self.round, phones=self.phones)

    def to_json(self) -> bytes:
        """The form in which it is stored."""
        return msgspec.json.encode(self)


def stored_personalisation(data: bytes) -> PopulationPersonalisation:
    """What ``to_json`` wrote."""
    return msgspec.json.decode(data, type=PopulationPersonalisation)


def first_prior() -> PopulationPrior:
    """What is believed before any round: the defaults of the personal model, each expert given a chance."""
    blend = BlendPrior(with_floors(DEFAULT_BLEND.weights), DEFAULT_BLEND.strength)
    return prior_message(blend, DEFAULT_GAIN)


def after_round(
    before: PopulationPersonalisation | None,
    mean: NDArray[np.float32],
    phones: int,
    *,
    minimum: int,
    tried: HeadPlan,
    candidates: tuple[HeadPlan, ...],
    round_id: RoundId,
) -> tuple[PopulationPersonalisation | None, dict[str, float]]:
    """What is known after one more round, and the round's figures.

    Args:
        before: What was known.
        mean: The mean of the phones' evidence, shape (EVIDENCE_LAYOUT.size,).
        phones: How many.
        minimum: With fewer phones than that, nothing is learned.
        tried: The round's head settings.
        candidates: The task's; what others gave is forgotten.
        round_id: The round.
    Edge cases:
        fewer phones than ``minimum`` -> ``before``, unchanged; the figures all the same
        ``before`` is of this very round -> unchanged too: its end was stored, and the answer lost
    """
    prior = first_prior() if before is None else before.prior
    found = population_of(mean, phones, blend_prior(prior))
    if phones < minimum or (before is not None and before.round == round_id):
        return before, found.figures
    known = {} if before is None else {one.head: one for one in before.candidates if one.head in candidates}
    earlier = known.get(tried)
    kept = 0.0 if earlier is None else KEPT_RATIO * earlier.phones
    gain = found.late_gain * phones + (0.0 if earlier is None else kept * earlier.gain)
    known[tried] = Candidate(head=tried, phones=kept + phones, gain=gain / (kept + phones))
    after = PopulationPersonalisation(
        prior=prior_message(found.blend, found.gain),
        candidates=tuple(sorted(known.values(), key=lambda one: -one.gain)),
        round=round_id,
        phones=phones,
    )
    return after, found.figures


def blend_prior(prior: PopulationPrior) -> BlendPrior:
    """The message's mixtures as the personal model has them."""
    weights = np.array(prior.blend, np.float64)
    return BlendPrior(weights / weights.sum(axis=1, keepdims=True), prior.strength)


def prior_message(blend: BlendPrior, gain: GainPrior) -> PopulationPrior:
    """The personal model's priors as they travel."""
    return PopulationPrior(
        blend=tuple(tuple(float(weight) for weight in row) for row in blend.weights),
        strength=float(blend.strength),
        gain_mean=float(gain.mean),
        gain_deviation=min(1.0, float(gain.deviation)),
    )
