"""The arms compared are the trunk, every expert alone, the blend, and the blend without one of its parts."""

from collections.abc import Callable
from typing import Final

import numpy as np

from keyflock_models.arrays import F64
from keyflock_models.personal.blend import CACHE, EXPERTS, HEAD, NGRAM, TRUNK
from keyflock_models.personal.head_fitting import HeadSettings

#: The product: the blend in the places that the gate gives it, else the trunk; and it goes on learning, as a
#: keyboard does, each message after it was judged.
PRODUCT: Final = "gated, learning on"
#: The product without learning from the later messages.
FROZEN: Final = "gated, frozen"
GLOBAL: Final = "global"
BLEND: Final = "blend, ungated"
#: The blend in one place of the strip, and in two, whatever the gate says.
STRIPS: Final = ("blend in one place", "blend in two places")

FINE_TUNED: Final = "full fine-tune alone"
#: Alternatives to the default head.
ALTERNATIVES: Final = {
    "biases alone": HeadSettings(rank=0),
    "adapter alone, rank 8": HeadSettings(biases=0),
    "adapter alone, rank 16": HeadSettings(rank=16, biases=0),
}


def _alone(expert: int) -> Callable[[F64], F64]:
    def weights(learned: F64) -> F64:
        only = np.zeros_like(learned)
        only[:, expert] = 1.0
        return only

    return weights


def _without(expert: int) -> Callable[[F64], F64]:
    def weights(learned: F64) -> F64:
        rest = learned.copy()
        rest[:, expert] = 0.0
        rest[:, TRUNK] += 1.0 - rest.sum(axis=1)
        return rest

    return weights


def _one_mixture(learned: F64) -> F64:
    return np.repeat(learned.mean(axis=0, keepdims=True), len(learned), axis=0)


def _fixed(learned: F64) -> F64:
    fixed = np.zeros_like(learned)
    fixed[:, TRUNK], fixed[:, NGRAM] = 0.6, 0.4
    return fixed


#: Functions from the user's learned weights to those of the arm.
ARMS: Final[dict[str, Callable[[F64], F64]]] = {
    "head alone": _alone(HEAD),
    "n-gram alone": _alone(NGRAM),
    "cache alone": _alone(CACHE),
    "blend, no n-gram": _without(NGRAM),
    "blend, no cache": _without(CACHE),
    "blend, no head": _without(HEAD),
    "blend, one mixture": _one_mixture,
    "n-gram at 0.4": _fixed,
    BLEND: lambda learned: learned,
}
assert len(EXPERTS) == 4  # noqa: S101 - an expert more wants its arms
