"""A head, a user's fitted expert: a low-rank adapter before the output product, and a sparse output bias.

    state' = state + (state @ down) @ up          logits = state' @ embedding.T + output_bias + own bias

It takes about 4 KB at rank 8 with 256 biases in float16. It belongs to the space of one trunk's states: on
another trunk it means nothing, so it holds that space's id and is refused elsewhere.

Source: Hu et al. 2021, arXiv:2106.09685 (low-rank adapter); Jain et al. 2021 and Reddi et al. 2021 for heads
on a frozen trunk in federated learning.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Final, Self, TypeGuard

import numpy as np

from keyflock_models.arrays import F32, I32
from keyflock_models.personal.words import PersonalStateError
from keyflock_models.text.special_tokens import SPECIAL_TOKENS

MAX_RANK: Final = 16
MAX_BIASES: Final = 1_024
#: Maximum magnitude of any of a head's numbers.
MAX_MAGNITUDE: Final = 1_000.0


class WrongSpaceError(ValueError):
    """A head or a head map was used on a trunk of another feature space."""


def feature_space(weights: F32) -> str:
    """Return the id of the space of a trunk's states: 32 hex digits of its weights' digest.

    Any change of the weights gives another space. Ids of only those parameters that a state depends on would
    be the same set: the output product shares the embedding with the input.
    """
    return hashlib.sha256(np.ascontiguousarray(weights, np.float32).tobytes()).hexdigest()[:32]


def is_feature_space(value: object) -> TypeGuard[str]:
    """Return whether this could be an id from `feature_space`."""
    return isinstance(value, str) and len(value) == 32 and not set(value) - set("0123456789abcdef")


def is_bounded(*parts: F32) -> bool:
    """Return whether all of a head's numbers are finite and small; no other head is kept or read."""
    # NaN fails the comparison.
    return all(bool((np.abs(part) <= MAX_MAGNITUDE).all()) for part in parts)


@dataclass(frozen=True, slots=True, eq=False)
class PersonalHead:
    """One user's fitted head."""

    #: `feature_space` of the trunk that it was fitted on.
    space: str
    #: The adapter's matrices. Shapes (E, r) and (r, E).
    down: F32
    up: F32
    #: Public ids, ascending, and the values added to their logits. Shape (B,) each.
    bias_ids: I32
    bias: F32

    def require_space(self, space: str) -> Self:
        """Return this head if it belongs to that feature space.

        Raises:
            WrongSpaceError: it belongs to another one.
        """
        if space != self.space:
            raise WrongSpaceError(
                f"a head of space {self.space[:8]} on a trunk of space {space[:8]}: map or refit it"
            )
        return self

    def probabilities(self, states: F32, embedding: F32, output_bias: F32) -> F32:
        """Return the probabilities of all public words; `require_space` tells whether the head may be used.

        Args:
            states: The trunk's states. Shape (T, E).
            embedding: The trunk's output product. Shape (V, E).
            output_bias: The trunk's output bias. Shape (V,).
        Returns:
            Shape (T, V).
        """
        adapted = states + (states @ self.down) @ self.up
        bias = output_bias.copy()
        bias[self.bias_ids] += self.bias
        logits = adapted @ embedding.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return np.asarray(logits, np.float32)

    def without_bias(self, word: int) -> Self:
        """Return the same head without a bias for this public id."""
        is_other = self.bias_ids != word
        return replace(self, bias_ids=self.bias_ids[is_other], bias=self.bias[is_other])

    def to_state(self) -> dict[str, object]:
        """Return the state as plain data, in float16."""
        return {
            "space": self.space,
            "down": self.down.astype(np.float16),
            "up": self.up.astype(np.float16),
            "bias_ids": self.bias_ids.copy(),
            "bias": self.bias.astype(np.float16),
        }

    @classmethod
    def from_state(cls, state: object, *, width: int, words: int) -> Self:
        """Restore what `to_state` returned.

        Args:
            state: The plain data.
            width: The width E of the trunk's states.
            words: The size V of the trunk's vocabulary.
        Raises:
            PersonalStateError: the data cannot have come from there.
        """
        if not isinstance(state, dict):
            raise PersonalStateError("the head is no map")
        space = state.get("space")
        if not is_feature_space(space):
            raise PersonalStateError("the head's feature space is not 32 hex digits")
        down, up = _floats(state, "down", 2), _floats(state, "up", 2)
        rank = down.shape[1]
        if down.shape != (width, rank) or up.shape != (rank, width) or rank > MAX_RANK:
            raise PersonalStateError(f"a head of {down.shape} and {up.shape} does not fit states of {width}")
        ids, bias = state.get("bias_ids"), _floats(state, "bias", 1)
        if not isinstance(ids, np.ndarray) or ids.dtype != np.int32 or ids.shape != bias.shape:
            raise PersonalStateError("the head's biases are not one a word")
        is_ascending = bool((np.diff(ids) > 0).all())
        is_inside = not ids.size or (ids[0] >= len(SPECIAL_TOKENS) and ids[-1] < words)
        if len(ids) > MAX_BIASES or not is_ascending or not is_inside:
            raise PersonalStateError("the head's biases are not for distinct words in their order")
        return cls(space, down, up, ids, bias)


def _floats(state: dict[str, object], name: str, dimensions: int) -> F32:
    value = state.get(name)
    if not isinstance(value, np.ndarray) or value.dtype != np.float16 or value.ndim != dimensions:
        raise PersonalStateError(f"the head's {name} are no float16 array")
    numbers = value.astype(np.float32)
    if not is_bounded(numbers):
        raise PersonalStateError(f"the head's {name} are not finite, small numbers")
    return numbers
