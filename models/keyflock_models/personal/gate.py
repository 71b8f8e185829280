"""Do no harm: the blend is shown only when it has proved, on this user's own words, that it helps.

The evidence is paired and prequential: at every word, was it among the three suggestions of the blend, and
of the trunk alone, both made before it was typed? Perplexity is no evidence: a user's unigram improves it
while the suggestions get worse.

The bound is on the mean gain after shrinking it towards what the population gains: a user with few words is
judged mostly by what is known of others, one with many by their own; the default says that nothing is known.
The gate opens when the bound is above a gain worth showing, and shuts when the estimate itself falls to zero,
so that it does not flutter.

Source: paired z-bound, Casella and Berger 2002, 10.4; the shrinkage is the normal-normal model of Efron and
Morris 1975.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from keyflock_models.personal.words import PersonalStateError

#: One-sided 90 %.
Z_90: Final = 1.2816
#: What the lower bound must exceed before the gate opens: one hit in a hundred words, a gain that is worth
#: showing. It also pays for looking after every message, of which some look good by chance: with strangers'
#: messages, which help a little because they are messages too, 21 % of gates opened at 0 and 2 % at this.
LEAST_GAIN: Final = 0.01
#: Fewer words than this prove nothing, whatever they say.
MIN_WORDS: Final = 60
#: Words after which evidence is worth half.
HALF_LIFE_WORDS: Final = 4_000.0
#: Variance of one word's gain that is assumed besides: so few gains and losses were seen that none of either
#: kind could be chance.
_LEAST_WORDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class GainPrior:
    """What a user of whom nothing is known gains: hits in the first three, a word."""

    mean: float = 0.0
    #: How much users differ. The default is wide: the user's own evidence decides.
    deviation: float = 1.0


@dataclass(slots=True)
class Gate:
    """One user's evidence. Changes in place, at every sentence."""

    prior: GainPrior = GainPrior()
    is_open: bool = False
    #: Words judged, gains minus losses, and gains plus losses; decayed.
    words: float = 0.0
    gain: float = 0.0
    changes: float = 0.0

    def observe(self, words: int, gains: int, losses: int) -> None:
        """Evidence of one sentence.

        Args:
            words: Words judged.
            gains: Of these, among the blend's first three and not among the trunk's.
            losses: The other way round.
        """
        if not words:
            return
        keep = 2.0 ** (-words / HALF_LIFE_WORDS)
        self.words = self.words * keep + words
        self.gain = self.gain * keep + gains - losses
        self.changes = self.changes * keep + gains + losses
        mean, deviation = self.estimate()
        if self.is_open:
            self.is_open = mean > 0.0
        else:
            self.is_open = self.words >= MIN_WORDS and mean - Z_90 * deviation > LEAST_GAIN

    def estimate(self) -> tuple[float, float]:
        """The gain a word, and its standard deviation, after shrinking."""
        if self.words <= 0.0:
            return self.prior.mean, self.prior.deviation
        mean = self.gain / self.words
        variance = (self.changes + _LEAST_WORDS) / self.words - mean * mean
        of_mean = max(variance, 1e-9) / self.words
        own, others = 1.0 / of_mean, 1.0 / self.prior.deviation**2
        return (own * mean + others * self.prior.mean) / (own + others), (own + others) ** -0.5

    def to_state(self) -> dict[str, object]:
        """As plain data."""
        return {
            "is_open": self.is_open,
            "evidence": np.array([self.words, self.gain, self.changes], np.float32),
        }

    @classmethod
    def from_state(cls, state: object, prior: GainPrior) -> Self:
        """Back from `to_state`.

        Raises:
            PersonalStateError: it cannot have come from there.
        """
        if not isinstance(state, dict) or type(state.get("is_open")) is not bool:
            raise PersonalStateError("the gate is neither open nor shut")
        evidence = state.get("evidence")
        if not isinstance(evidence, np.ndarray) or (evidence.dtype, evidence.shape) != (np.float32, (3,)):
            raise PersonalStateError("the gate's evidence is not three numbers")
        # NaN fails the comparisons below.
        words, gain, changes = (float(value) for value in evidence)
        if not (0.0 <= words <= 1e9 and abs(gain) <= changes + 1e-3 and changes <= words * 1.001 + 1e-3):
            raise PersonalStateError("the gate's evidence contradicts itself")
        return cls(prior, is_open=state["is_open"], words=words, gain=gain, changes=changes)
