"""The result of ``personalize`` rounds for a population: its phones' priors and the best head settings.

Each round tries one candidate for the head's settings and asks every phone for its gain. The mean of the
answers moves the priors; its gain is stored with the candidate, and the population's phones use the candidate
with the largest gain. A candidate's gain is a decaying mean: the trunk goes on training, so gains on older
trunks count less with every round.

Source: Khodak et al. 2021, arXiv:2106.04502 (federated hyper-parameter tuning by comparing configurations in
rounds), without its exponentiated gradient: there are few candidates, and each is measured directly.
"""

from typing import Final

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.evidence import apply_floors, population_priors
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.messages import Personalisation
from keyflock_server.protocol.plans import HeadPlan, PopulationPrior

#: The factor of the phones of a candidate's earlier rounds when it is tried again.
RETAINED_RATIO: Final = 0.5


class Candidate(Struct, frozen=True, kw_only=True):
    """One setting of heads, and its gain."""

    head: HeadPlan
    #: Number of phones behind the gain; earlier ones count less.
    phones: float
    #: Hits among the first three suggestions, a word, after the head was fitted.
    gain: float


class PopulationPersonalisation(Struct, frozen=True, kw_only=True):
    """The personalisation of a population, as it is stored with it."""

    prior: PopulationPrior
    #: All tried settings that are still candidates, best first.
    candidates: tuple[Candidate, ...]
    #: The last round, and its number of phones.
    round: RoundId
    phones: int

    @property
    def head(self) -> HeadPlan:
        """Return the best candidate so far."""
        return self.candidates[0].head

    def release(self) -> Personalisation:
        """Return the message for phones."""
        return Personalisation(prior=self.prior, head=self.head, round=self.round, phones=self.phones)

    def to_json(self) -> bytes:
        """Return the personalisation as stored JSON."""
        return msgspec.json.encode(self)


def personalisation_from_json(data: bytes) -> PopulationPersonalisation:
    """Return the personalisation that ``to_json`` encoded."""
    return msgspec.json.decode(data, type=PopulationPersonalisation)


def first_prior() -> PopulationPrior:
    """Return the prior before any round: the personal model's defaults, with a minimum for each expert."""
    blend = BlendPrior(apply_floors(DEFAULT_BLEND.weights), DEFAULT_BLEND.strength)
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
    """Return the personalisation after one more round, and the round's figures.

    Args:
        before: The personalisation before the round.
        mean: The mean of the phones' evidence, shape (EVIDENCE_LAYOUT.size,).
        phones: Number of phones.
        minimum: With fewer phones than this, the personalisation does not change.
        tried: The round's head settings.
        candidates: The task's candidates; gains of others are dropped.
        round_id: The id of the round.
    Edge cases:
        fewer phones than ``minimum`` -> ``before``, unchanged, and the figures
        ``before`` is already of this round -> unchanged too: the round was stored, and the answer lost
    """
    prior = first_prior() if before is None else before.prior
    found = population_priors(mean, phones, blend_prior(prior))
    if phones < minimum or (before is not None and before.round == round_id):
        return before, found.figures
    known = {} if before is None else {one.head: one for one in before.candidates if one.head in candidates}
    earlier = known.get(tried)
    earlier_phones = 0.0 if earlier is None else RETAINED_RATIO * earlier.phones
    gain = found.late_gain * phones + (0.0 if earlier is None else earlier_phones * earlier.gain)
    known[tried] = Candidate(
        head=tried, phones=earlier_phones + phones, gain=gain / (earlier_phones + phones)
    )
    after = PopulationPersonalisation(
        prior=prior_message(found.blend, found.gain),
        candidates=tuple(sorted(known.values(), key=lambda one: -one.gain)),
        round=round_id,
        phones=phones,
    )
    return after, found.figures


def blend_prior(prior: PopulationPrior) -> BlendPrior:
    """Return the message's mixtures in the personal model's form."""
    weights = np.array(prior.blend, np.float64)
    return BlendPrior(weights / weights.sum(axis=1, keepdims=True), prior.strength)


def prior_message(blend: BlendPrior, gain: GainPrior) -> PopulationPrior:
    """Return the personal model's priors as a message."""
    return PopulationPrior(
        blend=tuple(tuple(float(weight) for weight in row) for row in blend.weights),
        strength=float(blend.strength),
        gain_mean=float(gain.mean),
        gain_deviation=min(1.0, float(gain.deviation)),
    )
