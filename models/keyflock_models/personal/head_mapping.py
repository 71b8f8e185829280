"""Maps that carry a head from one trunk to the next without the user's own text.

Both trunks read the same public contexts; a ridge regression towards the identity turns the new one's states
into the old one's, and the new one's output product into the old one's. The map is fitted once for a version
and shipped with it (37 KB at 96 numbers per state); a phone maps its head without reading any text.

    old logits of a head      (S_old @ down) @ up @ W_old.T
    S_new @ M ~ S_old         down' = M @ down
    N @ W_new.T ~ W_old.T     up'   = up @ N

Source: Hoerl and Kennard 1970 (ridge regression); maps between trained spaces by regression on anchors:
Mikolov et al. 2013, arXiv:1309.4168; Moschella et al. 2022, arXiv:2209.15430.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from keyflock_models.arrays import F32, F64, I32
from keyflock_models.personal.head import (
    PersonalHead,
    WrongSpaceError,
    feature_space,
    is_bounded,
    is_feature_space,
)
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.special_tokens import BOS, EOS, OOV
from keyflock_models.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from keyflock_models.evaluation.neural_scorer import NeuralScorer  # it loads JAX

#: Strengths of the pull towards the identity, in mean variances of a state's and of a word vector's numbers.
#: From one federated round to the next, words move and the meaning of states hardly does: measured over 7
#: rounds, a regressed M undoes what the trunk has learned (a pull of 1e-2 costs a head 0.03 nats per word, of
#: 10 still 0.01), while N gains 0.01. After a trunk was trained anew its states are turned, and `STATE_RIDGE`
#: is too firm by far.
STATE_RIDGE: Final = 100.0
OUTPUT_RIDGE: Final = 1e-3
#: Maximum number of trunk changes that one map may bridge.
MAX_STEPS: Final = 1_000


def anchor_contexts(vocabulary: Vocabulary, *, count: int = 512, words: int = 8, seed: int = 0) -> I32:
    """Draw messages of words, OOV among them, by the public's frequencies: text that nobody wrote.

    Returns:
        Shape (count, words + 2), BOS in front and EOS behind.
    Guarantees:
        The same vocabulary and seed give the same contexts with every version of NumPy: only the bits of the
        generator are used.
    """
    shares = np.exp(vocabulary.log_frequencies.astype(np.float64))
    shares[:OOV] = 0.0
    ends = np.cumsum(shares)
    bits = np.random.PCG64(seed).random_raw(count * words)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    drawn = np.searchsorted(ends, uniform * ends[-1], side="right")
    rows = np.full((count, words + 2), EOS, np.int32)
    rows[:, 0] = BOS
    rows[:, 1:-1] = np.minimum(drawn, len(vocabulary) - 1).reshape(count, words)
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class HeadMap:
    """A map from heads of one trunk to heads of another."""

    from_space: str
    to_space: str
    #: The matrices M and N above. Shape (E, E) each.
    states: F32
    outputs: F32
    #: Number of trunk changes that it bridges, by which a mapped head ages.
    steps: int = 1

    def to_state(self) -> dict[str, object]:
        """Return plain data: differences from the identity in float16, so that small steps keep digits."""
        one = np.eye(len(self.states), dtype=np.float32)
        # What is beyond float16 becomes infinite, which no reader takes.
        with np.errstate(over="ignore"):
            states, outputs = ((part - one).astype(np.float16) for part in (self.states, self.outputs))
        return {
            "from": self.from_space,
            "to": self.to_space,
            "states": states,
            "outputs": outputs,
            "steps": self.steps,
        }

    @classmethod
    def from_state(cls, state: object, *, width: int) -> Self:
        """Restore what `to_state` returned.

        Args:
            state: The plain data.
            width: The width E of both trunks' states.
        Raises:
            PersonalStateError: the data cannot have come from there.
        """
        if not isinstance(state, dict):
            raise PersonalStateError("the head map is no map")
        origin, target, steps = state.get("from"), state.get("to"), state.get("steps")
        if not is_feature_space(origin) or not is_feature_space(target):
            raise PersonalStateError("the head map's feature spaces are not 32 hex digits each")
        if type(steps) is not int or not 1 <= steps <= MAX_STEPS:
            raise PersonalStateError(f"the head map's steps are not 1 to {MAX_STEPS}")
        states, outputs = (_matrix(state, name, width) for name in ("states", "outputs"))
        return cls(origin, target, states, outputs, steps)


def fit_head_map(
    old: "NeuralScorer",
    new: "NeuralScorer",
    *,
    anchors: I32 | None = None,
    state_ridge: float = STATE_RIDGE,
    output_ridge: float = OUTPUT_RIDGE,
) -> HeadMap:
    """Fit the map from heads on `old` to heads on `new`.

    Args:
        old: The trunk that the heads were fitted on.
        new: The trunk that takes its place.
        anchors: Contexts that both read, shape (N, L + 1); None: `anchor_contexts`.
        state_ridge: Pull of M towards the identity, > 0; about 1e-3 for a trunk that was trained anew.
        output_ridge: Pull of N towards the identity, > 0.
    Edge cases:
        the same trunk twice -> the identity
    Raises:
        ValueError: the trunks differ in their words or the width of their states.
    """
    if old.vocabulary.digest != new.vocabulary.digest:
        raise ValueError("heads cannot be mapped between trunks of different vocabularies")
    if old.config.embedding_size != new.config.embedding_size:
        raise ValueError("heads cannot be mapped between trunks whose states differ in width")
    contexts = anchor_contexts(old.vocabulary) if anchors is None else anchors
    width = old.config.embedding_size
    old_states, new_states = (one.states(contexts).reshape(-1, width) for one in (old, new))
    # A shift that all states share is no rotation of their space.
    old_states, new_states = (one - one.mean(axis=0) for one in (old_states, new_states))
    uniform = np.full(len(old_states), 1.0 / len(old_states))
    frequencies = np.exp(old.vocabulary.log_frequencies.astype(np.float64))
    frequencies /= frequencies.sum()
    # What all logits of a position have in common is no preference: softmax drops it, and so does the fit.
    old_words, new_words = (
        product - frequencies @ product for product in (old.output_product[0], new.output_product[0])
    )
    return HeadMap(
        feature_space(old.weights),
        feature_space(new.weights),
        _regressed(new_states, old_states, uniform, state_ridge).astype(np.float32),
        _regressed(new_words, old_words, frequencies, output_ridge).T.astype(np.float32),
    )


def map_head(head: PersonalHead, head_map: HeadMap) -> PersonalHead:
    """Map a head to the new trunk; the biases belong to words and stay as they are.

    Raises:
        WrongSpaceError: the map starts from another space than the head's.
        PersonalStateError: the mapped head's numbers are beyond all bounds.
    """
    head.require_space(head_map.from_space)
    down, up = head_map.states @ head.down, head.up @ head_map.outputs
    if not is_bounded(down, up):
        raise PersonalStateError("the mapped head's numbers are not finite and small")
    return replace(head, space=head_map.to_space, down=down, up=up)


def compose_maps(first: HeadMap, second: HeadMap) -> HeadMap:
    """Compose two maps into one, for a phone that skipped the version between them.

    Raises:
        WrongSpaceError: the second does not start where the first ends.
    """
    if first.to_space != second.from_space:
        raise WrongSpaceError(
            f"a map to space {first.to_space[:8]} does not go on with one from {second.from_space[:8]}"
        )
    return HeadMap(
        first.from_space,
        second.to_space,
        second.states @ first.states,
        first.outputs @ second.outputs,
        min(MAX_STEPS, first.steps + second.steps),
    )


def _regressed(given: F32 | F64, wanted: F32 | F64, weights: F64, ridge: float) -> F64:
    """Return T with given @ T ~ wanted, weighted by row, shrunk towards the identity. Shape (E, E)."""
    given, wanted = given.astype(np.float64), wanted.astype(np.float64)
    weighted = given.T * weights
    gram = weighted @ given
    pull = max(ridge * float(np.trace(gram)) / len(gram), 1e-12) * np.eye(len(gram))
    # Solve for the difference from the identity, so that equal trunks give exactly zero.
    return np.eye(len(gram)) + np.linalg.solve(gram + pull, weighted @ (wanted - given))


def _matrix(state: dict[str, object], name: str, width: int) -> F32:
    value = state.get(name)
    if not isinstance(value, np.ndarray) or (value.dtype, value.shape) != (np.float16, (width, width)):
        raise PersonalStateError(f"the head map's {name} are no float16 array for states of {width}")
    found = value.astype(np.float32)
    if not is_bounded(found):
        raise PersonalStateError(f"the head map's {name} are not finite, small numbers")
    return np.asarray(found + np.eye(width, dtype=np.float32))
