"""Do no harm: the blend gets as many of the strip's places as it has proved to fill better than the trunk.

None, one or two of the three (`strip`), on this user's own words. The evidence is paired and prequential: at
every word, was it on the strip with one place (with two) given to the blend, and was it on the trunk's, both
made before it was typed? Perplexity is no evidence: a user's unigram improves it while the suggestions get
worse.

The bound is on the mean gain after shrinking it towards what the population gains: a user with few words is
judged mostly by what is known of others, one with many by their own; the default says that nothing is known.
A place is given when the bound is above a gain worth showing, and taken back when the estimate itself falls
to zero, so that the strip does not flutter.

Source: paired z-bound, Casella and Berger 2002, 10.4; the shrinkage is the normal-normal model of Efron and
Morris 1975.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from keyflock_models.personal.strip import MOST_PLACES
from keyflock_models.personal.words import PersonalStateError

#: One-sided 90 %.
Z_90: Final = 1.2816
#: What the lower bound must exceed before the blend gets one place, and before it gets two, in hits a word.
#: It pays for looking after every message, of which some look good by chance: as high as it takes for no more
#: than one user in thirty to have fewer hits than with the trunk, chance included (300 users' chat and 80
#: users' text messages; other users than those whose figures are published).
LEAST_GAINS: Final = (0.02, 0.04)
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
class Evidence:
    """What one strip gained over the trunk's. Changes in place, at every sentence."""

    #: Words judged, gains minus losses, and gains plus losses; decayed.
    words: float = 0.0
    gain: float = 0.0
    changes: float = 0.0

    def observe(self, words: int, gains: int, losses: int) -> None:
        """Evidence of one sentence.

        Args:
            words: Words judged, at least one.
            gains: Of these, on this strip and not on the trunk's.
            losses: The other way round.
        """
        keep = 2.0 ** (-words / HALF_LIFE_WORDS)
        self.words = self.words * keep + words
        self.gain = self.gain * keep + gains - losses
        self.changes = self.changes * keep + gains + losses

    def estimate(self, prior: GainPrior) -> tuple[float, float]:
        """The gain a word, and its standard deviation, after shrinking."""
        if self.words <= 0.0:
            return prior.mean, prior.deviation
        mean = self.gain / self.words
        variance = (self.changes + _LEAST_WORDS) / self.words - mean * mean
        of_mean = max(variance, 1e-9) / self.words
        own, others = 1.0 / of_mean, 1.0 / prior.deviation**2
        return (own * mean + others * prior.mean) / (own + others), (own + others) ** -0.5

    def proves(self, prior: GainPrior, least_gain: float, *, is_proved: bool) -> bool:
        """Whether the gain is worth showing; once it was, whether it is still one."""
        mean, deviation = self.estimate(prior)
        if is_proved:
            return mean > 0.0
        return self.words >= MIN_WORDS and mean - Z_90 * deviation > least_gain


@dataclass(slots=True)
class Gate:
    """One user's. Changes in place, at every sentence."""

    prior: GainPrior = GainPrior()
    #: Of the strips with one place for the blend, and with two.
    evidence: tuple[Evidence, ...] = field(
        default_factory=lambda: tuple(Evidence() for _ in range(MOST_PLACES))
    )
    is_proved: tuple[bool, ...] = (False,) * MOST_PLACES

    @classmethod
    def opened(cls, prior: GainPrior = GainPrior()) -> Self:
        """A gate that gives all the places there are."""
        return cls(prior, is_proved=(True,) * MOST_PLACES)

    @property
    def places(self) -> int:
        """How many of the strip's places the blend fills: a place is given after the one before it."""
        return next((at for at, is_proved in enumerate(self.is_proved) if not is_proved), MOST_PLACES)

    @property
    def is_open(self) -> bool:
        """Whether the blend has a place."""
        return self.places > 0

    def observe(self, words: int, *changes: tuple[int, int]) -> None:
        """Evidence of one sentence.

        Args:
            words: Words judged.
            changes: Gains and losses (see `Evidence.observe`) of each strip, the one with one place first.
        """
        if not words:
            return
        for one, (gains, losses) in zip(self.evidence, changes, strict=True):
            one.observe(words, gains, losses)
        self.is_proved = tuple(
            one.proves(self.prior, least, is_proved=before)
            for one, least, before in zip(self.evidence, LEAST_GAINS, self.is_proved, strict=True)
        )

    def to_state(self) -> dict[str, object]:
        """As plain data."""
        rows = [[one.words, one.gain, one.changes] for one in self.evidence]
        return {"is_proved": list(self.is_proved), "evidence": np.array(rows, np.float32)}

    @classmethod
    def from_state(cls, state: object, prior: GainPrior) -> Self:
        """Back from `to_state`.

        Raises:
            PersonalStateError: it cannot have come from there.
        """
        proved = state.get("is_proved") if isinstance(state, dict) else None
        if not isinstance(proved, list) or [type(one) for one in proved] != [bool] * MOST_PLACES:
            raise PersonalStateError("the gate does not say what is proved")
        rows = state.get("evidence") if isinstance(state, dict) else None
        if not isinstance(rows, np.ndarray) or (rows.dtype, rows.shape) != (np.float32, (MOST_PLACES, 3)):
            raise PersonalStateError("the gate's evidence is not three numbers a place")
        for words, gain, changes in rows.tolist():
            # NaN fails the comparisons.
            if not (0.0 <= words <= 1e9 and abs(gain) <= changes + 1e-3 and changes <= words * 1.001 + 1e-3):
                raise PersonalStateError("the gate's evidence contradicts itself")
        evidence = tuple(Evidence(*row) for row in rows.tolist())
        return cls(prior, evidence, tuple(bool(one) for one in proved))
