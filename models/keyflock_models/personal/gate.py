"""The gate: the blend gets as many of the strip's slots as it has proved to fill better than the trunk.

It gets none, one or two of the three (`strip`), by this user's own words. The evidence is paired and
prequential: for every word, was it on the strip with one slot (with two) for the blend, and was it on the
trunk's, both predicted before it was typed? Perplexity is no evidence: a user's unigram improves it while the
suggestions get worse.

The bound is on the mean gain after shrinking it towards what the population gains: a user with few words is
judged mostly by what is known of others, one with many by their own; the default says that nothing is known.
A slot is given when the bound is above a gain worth showing, and taken back when the estimate itself falls to
zero, so that the strip does not flutter.

Source: paired z-bound, Casella and Berger 2002, 10.4; the shrinkage is the normal-normal model of Efron and
Morris 1975.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np

from keyflock_models.personal.strip import MAX_BLEND_SLOTS
from keyflock_models.personal.words import PersonalStateError

#: Quantile of the normal distribution for a one-sided 90 % bound.
Z_90: Final = 1.2816
#: The gain in hits per word that the lower bound must exceed before the blend gets one slot, and two slots.
#: It makes up for a test after every message, some of which succeed by chance: it is as high as it takes for
#: no more than one user in thirty to have fewer hits than with the trunk, chance included (300 users' chat
#: and 80 users' text messages; other users than those whose figures are published).
MIN_GAINS: Final = (0.02, 0.04)
#: Minimum number of words for a proof.
MIN_WORDS: Final = 60
#: Number of words after which evidence counts half.
HALF_LIFE_WORDS: Final = 4_000.0
#: Changes that are added to those observed, because very few observed ones would give too small a variance.
_PSEUDO_CHANGES: Final = 1.0


@dataclass(frozen=True, slots=True)
class GainPrior:
    """The prior of a user's gain, in hits in the first three per word."""

    mean: float = 0.0
    #: The standard deviation between users. The default is wide: the user's own evidence decides.
    deviation: float = 1.0


@dataclass(slots=True)
class GainEvidence:
    """The evidence of one strip's gain over the trunk's. It changes in place, at every sentence."""

    #: Words judged, gains minus losses, and gains plus losses; decayed.
    words: float = 0.0
    gain: float = 0.0
    changes: float = 0.0

    def observe(self, words: int, gains: int, losses: int) -> None:
        """Add the evidence of one sentence.

        Args:
            words: The number of words judged, at least one.
            gains: The number of these that are on this strip and not on the trunk's.
            losses: The number of these that are on the trunk's strip and not on this one.
        """
        decay = 2.0 ** (-words / HALF_LIFE_WORDS)
        self.words = self.words * decay + words
        self.gain = self.gain * decay + gains - losses
        self.changes = self.changes * decay + gains + losses

    def estimate(self, prior: GainPrior) -> tuple[float, float]:
        """Return the gain per word, and its standard deviation, after shrinking."""
        if self.words <= 0.0:
            return prior.mean, prior.deviation
        mean = self.gain / self.words
        variance = (self.changes + _PSEUDO_CHANGES) / self.words - mean * mean
        of_mean = max(variance, 1e-9) / self.words
        own, others = 1.0 / of_mean, 1.0 / prior.deviation**2
        return (own * mean + others * prior.mean) / (own + others), (own + others) ** -0.5

    def proves(self, prior: GainPrior, min_gain: float, *, is_proved: bool) -> bool:
        """Return whether the gain is worth showing; once it was, whether there still is one."""
        mean, deviation = self.estimate(prior)
        if is_proved:
            return mean > 0.0
        return self.words >= MIN_WORDS and mean - Z_90 * deviation > min_gain


@dataclass(slots=True)
class Gate:
    """One user's gate. It changes in place, at every sentence."""

    prior: GainPrior = GainPrior()
    #: The evidence for the strips with one slot for the blend, and with two.
    evidence: tuple[GainEvidence, ...] = field(
        default_factory=lambda: tuple(GainEvidence() for _ in range(MAX_BLEND_SLOTS))
    )
    is_proved: tuple[bool, ...] = (False,) * MAX_BLEND_SLOTS

    @classmethod
    def opened(cls, prior: GainPrior = GainPrior()) -> Self:
        """Return a gate that gives the blend all its slots."""
        return cls(prior, is_proved=(True,) * MAX_BLEND_SLOTS)

    @property
    def blend_slots(self) -> int:
        """How many of the strip's slots the blend fills; a slot is given only after the one before it."""
        return next((at for at, is_proved in enumerate(self.is_proved) if not is_proved), MAX_BLEND_SLOTS)

    @property
    def is_open(self) -> bool:
        """Whether the blend has a slot."""
        return self.blend_slots > 0

    def observe(self, words: int, *changes: tuple[int, int]) -> None:
        """Add the evidence of one sentence.

        Args:
            words: The number of words judged.
            changes: Gains and losses (see `GainEvidence.observe`) of each strip, the one with one slot first.
        """
        if not words:
            return
        for one, (gains, losses) in zip(self.evidence, changes, strict=True):
            one.observe(words, gains, losses)
        self.is_proved = tuple(
            one.proves(self.prior, min_gain, is_proved=before)
            for one, min_gain, before in zip(self.evidence, MIN_GAINS, self.is_proved, strict=True)
        )

    def to_state(self) -> dict[str, object]:
        """Return the state as plain data."""
        rows = [[one.words, one.gain, one.changes] for one in self.evidence]
        return {"is_proved": list(self.is_proved), "evidence": np.array(rows, np.float32)}

    @classmethod
    def from_state(cls, state: object, prior: GainPrior) -> Self:
        """Restore what `to_state` returned.

        Raises:
            PersonalStateError: the data cannot have come from there.
        """
        proved = state.get("is_proved") if isinstance(state, dict) else None
        if not isinstance(proved, list) or [type(one) for one in proved] != [bool] * MAX_BLEND_SLOTS:
            raise PersonalStateError("the gate does not say what is proved")
        rows = state.get("evidence") if isinstance(state, dict) else None
        if not isinstance(rows, np.ndarray) or (rows.dtype, rows.shape) != (np.float32, (MAX_BLEND_SLOTS, 3)):
            raise PersonalStateError("the gate's evidence is not three numbers a place")
        for words, gain, changes in rows.tolist():
            # NaN fails the comparisons.
            is_possible = abs(gain) <= changes * 1.001 + 1e-3 and changes <= words * 1.001 + 1e-3
            if not (0.0 <= words <= 1e9 and is_possible):
                raise PersonalStateError("the gate's evidence contradicts itself")
        evidence = tuple(GainEvidence(*row) for row in rows.tolist())
        return cls(prior, evidence, tuple(bool(one) for one in proved))
