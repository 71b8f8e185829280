"""How far a head is trusted after the trunk under it has changed: less with every change, until proven again.

A mapped head is nearly the head that was fitted, but nobody has seen it at work on the new trunk. Its weight
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

#: Trunk changes that halve an unproven head's weight.
HALF_LIFE_CHANGES: Final = 4.0
#: Ages are counted up to here.
MAX_AGE: Final = 1_000
#: A single word says no more than this, in nats.
_MOST_NATS: Final = 5.0


class HeadPolicy(Enum):
    """What becomes of a head when its user's trunk changes."""

    #: The trunk is the same: nothing.
    KEEP = "keep"
    #: It was carried over by the version's map.
    MAP = "map"
    #: It is set aside, in the state but unused, until a new one is fitted or a map turns up.
    REFIT = "refit"
    #: There is none.
    DROP = "drop"


@dataclass(slots=True)
class HeadStanding:
    """One head's age and evidence. Changes in place."""

    #: Trunk changes since the head was fitted or proven.
    age: int = 0
    #: Since the last change of the trunk: words, the sum of log(head / trunk) and of its squares; decayed.
    words: float = 0.0
    gain: float = 0.0
    squares: float = 0.0

    @property
    def trust_ratio(self) -> float:
        """What the head's weight is multiplied with: 1 at age 0, and less with every change after."""
        return float(0.5 ** (self.age / HALF_LIFE_CHANGES))

    def trunk_changed(self, steps: int = 1) -> None:
        """The head was mapped over so many changes; earlier evidence is of another trunk."""
        self.age = min(MAX_AGE, self.age + steps)
        self.words = self.gain = self.squares = 0.0

    def observe(self, given: F64) -> None:
        """Evidence of one message; an aged head that is better than the trunk, with evidence, is young again.

        Args:
            given: Probability of each word under each expert, shape (T, experts), as
                `BlendWeights.learn` takes it.
        """
        known = (given[:, TRUNK] > 0) & (given[:, HEAD] > 0)
        if not self.age or not known.any():
            return
        ratios = np.clip(np.log(given[known, HEAD] / given[known, TRUNK]), -_MOST_NATS, _MOST_NATS)
        keep = 2.0 ** (-len(ratios) / HALF_LIFE_WORDS)
        self.words = self.words * keep + len(ratios)
        self.gain = self.gain * keep + float(ratios.sum())
        self.squares = self.squares * keep + float((ratios**2).sum())
        if self.words < MIN_WORDS:
            return
        mean = self.gain / self.words
        deviation = (max(self.squares / self.words - mean**2, 0.0) / self.words) ** 0.5
        if mean - Z_90 * deviation > 0.0:
            self.age = 0
            self.words = self.gain = self.squares = 0.0

    def discounted(self, weights: F64) -> F64:
        """The blend's weights with the head's share reduced by its age; the trunk takes the rest.

        Args:
            weights: Of `BlendWeights.current`, shape (MATCHES, experts).
        Guarantees:
            Each row adds up to what it did; no expert but trunk and head changes.
        """
        found = weights.copy()
        found[:, HEAD] *= self.trust_ratio
        found[:, TRUNK] += weights[:, HEAD] - found[:, HEAD]
        return found

    def to_state(self) -> dict[str, object]:
        """As plain data."""
        return {"age": self.age, "evidence": np.array([self.words, self.gain, self.squares], np.float32)}

    @classmethod
    def from_state(cls, state: object) -> Self:
        """Back from `to_state`.

        Raises:
            PersonalStateError: it cannot have come from there.
        """
        age = state.get("age") if isinstance(state, dict) else None
        if not isinstance(state, dict) or type(age) is not int or not 0 <= age <= MAX_AGE:
            raise PersonalStateError(f"the head's age is not 0 to {MAX_AGE}")
        evidence = state.get("evidence")
        if not isinstance(evidence, np.ndarray) or (evidence.dtype, evidence.shape) != (np.float32, (3,)):
            raise PersonalStateError("the head's evidence is not three numbers")
        words, gain, squares = (float(value) for value in evidence)
        # NaN fails the comparisons.
        is_possible = 0.0 <= words <= 1e9 and 0.0 <= squares <= words * _MOST_NATS**2 * 1.001 + 1e-3
        if not is_possible or not gain * gain <= squares * words * 1.001 + 1e-3:
            raise PersonalStateError("the head's evidence contradicts itself")
        return cls(age, words, gain, squares)
