"""A toy language of sixty words and the smallest network that can speak it."""

import itertools
from collections.abc import Callable

import jax
import numpy as np
import pytest

from keyflock_models.arrays import F32, I32
from keyflock_models.network.cifg import init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.special_tokens import BOS, EOS, PAD
from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """64 entries, 8 wide, 12 units."""
    return ModelConfig.named("tiny")


@pytest.fixture(scope="session")
def toy_vocabulary() -> Vocabulary:
    """60 words of two letters, each half as frequent as possible under the one before it in the list."""
    words = ["".join(pair) for pair in itertools.product("abcdef", "ghijklmnop")]
    shares = 1 / np.arange(2, 62)
    return build_vocabulary(words, list(shares / shares.sum() * 0.9), oov=0.1, eos=0.2)


@pytest.fixture(scope="session")
def toy_weights(tiny: ModelConfig) -> F32:
    """Fresh parameters of the tiny network."""
    return ParamLayout.for_config(tiny).flatten(init_params(tiny, jax.random.key(7)))


@pytest.fixture(scope="session")
def toy_messages() -> Callable[..., I32]:
    """Makes rows of random words: BOS, up to `length` - 1 words, EOS, PAD."""

    def make(count: int, *, length: int = 6, seed: int = 0, words: int = 60) -> I32:
        rng = np.random.default_rng(seed)
        rows = np.full((count, length + 1), PAD, np.int32)
        for row, size in zip(rows, rng.integers(1, length, count), strict=True):
            row[0], row[1 : size + 1], row[size + 1] = BOS, rng.integers(4, 4 + words, size), EOS
        return rows

    return make
