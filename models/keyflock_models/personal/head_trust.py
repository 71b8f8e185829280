"""The trust in a head after its trunk has changed: it falls with every change until the head is proven again.

A mapped head is nearly the head that was fitted, but there is no evidence of it on the new trunk. Its weight
in the blend is multiplied by 0.5 ** (age / half-life), and the trunk takes the rest; the age is the number of
trunk changes since the head was fitted or last proven. The proof is paired and prequential, as the gate's is:
how much more probable the head made each word than the trunk did, before it was typed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

import numpy as np

from keyflock_models.arrays import F64
from keyflock_models.personal.blend import HEAD, TRUNK
from keyflock_models.personal.gate import HALF_LIFE_WORDS, MIN_WORDS, Z_90
from keyflock_models.personal.words import PersonalStateError

#: Number of trunk changes that halve an unproven head's weight.
HALF_LIFE_CHANGES: Final = 4.0
#: Maximum age that is counted.
MAX_AGE: Final = 1_000
#: Maximum evidence of a single word, in nats.
_MAX_NATS: Final = 5.0


class HeadPolicy(Enum):
    """What happens to a head when its user's trunk changes."""

    #: The trunk is the same, and so is the head.
    KEEP = "keep"
    #: The version's map carried the head over.
    MAP = "map"
    #: The head stays in the state but is unused until a new one is fitted or a map is available.
    REFIT = "refit"
    #: There is no head.
    DROP = "drop"


@dataclass(slots=True)
class HeadTrust:
    """One head's age and evidence. It changes in place."""

    #: Number of trunk changes since the head was fitted or proven.
    age: int = 0
    #: Evidence since the last change of the trunk, decayed: words, and the sums of log(head / trunk) and of
    #: its square.
    words: float = 0.0
    gain: float = 0.0
    squares: float = 0.0

    @property
    def trust_ratio(self) -> float:
        """The factor of the head's weight: 1 at age 0, and less with every change of the trunk."""
        return float(0.5 ** (self.age / HALF_LIFE_CHANGES))

    def trunk_changed(self, steps: int = 1) -> None:
        """Record that the head was mapped over so many trunk changes; earlier evidence no longer counts."""
        self.age = min(MAX_AGE, self.age + steps)
        self.words = self.gain = self.squares = 0.0

    def observe(self, probabilities: F64) -> None:
        """Add the evidence of one message; an aged head that is proven better than the trunk gets age 0.

        Args:
            probabilities: Probability of each word under each expert, as `BlendWeights.learn` takes it.
                Shape (T, experts).
        """
        known = (probabilities[:, TRUNK] > 0) & (probabilities[:, HEAD] > 0)
        if not self.age or not known.any():
            return
        ratios = np.clip(
            np.log(probabilities[known, HEAD] / probabilities[known, TRUNK]), -_MAX_NATS, _MAX_NATS
        )
        decay = 2.0 ** (-len(ratios) / HALF_LIFE_WORDS)
        self.words = self.words * decay + len(ratios)
        self.gain = self.gain * decay + float(ratios.sum())
        self.squares = self.squares * decay + float((ratios**2).sum())
        if self.words < MIN_WORDS:
            return
        mean = self.gain / self.words
        deviation = (max(self.squares / self.words - mean**2, 0.0) / self.words) ** 0.5
        if mean - Z_90 * deviation > 0.0:
            self.age = 0
            self.words = self.gain = self.squares = 0.0

    def discounted(self, weights: F64) -> F64:
        """Return the blend's weights with the head's share reduced by its age; the trunk takes the rest.

        Args:
            weights: The weights from `BlendWeights.current`. Shape (MATCH_BUCKETS, experts).
        Guarantees:
            Each row adds up to what it did; no expert but trunk and head changes.
        """
        found = weights.copy()
        found[:, HEAD] *= self.trust_ratio
        found[:, TRUNK] += weights[:, HEAD] - found[:, HEAD]
        return found

    def to_state(self) -> dict[str, object]:
        """Return the state as plain data."""
        return {"age": self.age, "evidence": np.array([self.words, self.gain, self.squares], np.float32)}

    @classmethod
    def from_state(cls, state: object) -> Self:
        """Restore what `to_state` returned.

        Raises:
            PersonalStateError: the data cannot have come from there.
        """
        age = state.get("age") if isinstance(state, dict) else None
        if not isinstance(state, dict) or type(age) is not int or not 0 <= age <= MAX_AGE:
            raise PersonalStateError(f"the head's age is not 0 to {MAX_AGE}")
        evidence = state.get("evidence")
        if not isinstance(evidence, np.ndarray) or (evidence.dtype, evidence.shape) != (np.float32, (3,)):
            raise PersonalStateError("the head's evidence is not three numbers")
        words, gain, squares = (float(value) for value in evidence)
        # NaN fails the comparisons.
        is_possible = 0.0 <= words <= 1e9 and 0.0 <= squares <= words * _MAX_NATS**2 * 1.001 + 1e-3
        if not is_possible or not gain * gain <= squares * words * 1.001 + 1e-3:
            raise PersonalStateError("the head's evidence contradicts itself")
        return cls(age, words, gain, squares)
