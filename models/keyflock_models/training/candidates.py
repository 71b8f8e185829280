"""The candidate softmax normalises over a phone's own words and a sample of the others, not over all 10,000.

Two thirds of the work of a training step is the product with the whole vocabulary. A phone's text holds a
few hundred words; the others matter only through the sum under the softmax, and a sample with known
probabilities estimates that sum without bias: each sampled word's exponential is divided by its probability
of being in the sample. Rows of words outside the sample take no part, so their delta is exactly zero, which
helps the codec too.
"""

from dataclasses import dataclass

import numpy as np

from keyflock_models.arrays import F32, F64, I32

#: How steeply the chance of being sampled falls with a word's id. Ids go by frequency, and frequent words
#: weigh most in the sum; an exponent under 1 keeps the correction of rare words moderate.
_FREQUENCY_EXPONENT = 0.75


@dataclass(frozen=True, slots=True)
class CandidateWords:
    """The candidate words of one phone's softmax."""

    #: Ascending, without repetition. Shape (C,).
    ids: I32
    #: Logarithm of each word's probability of being included; 0 for words that always are. It is subtracted
    #: from the logits. Shape (C,).
    log_inclusion: F32


def candidate_words(
    own: I32, vocabulary_size: int, negatives: int, rng: np.random.Generator
) -> CandidateWords:
    """Return the phone's own words and at least this many others.

    Args:
        own: Ids in the phone's text, in any order, with repetitions.
        vocabulary_size: The number of words in the vocabulary.
        negatives: The number of other words wanted; 0 means all words (the full softmax).
        rng: Decides the sample.
    Guarantees:
        Every own word is among the candidates. The sum of exp(logit - log_inclusion) has the sum over the
        whole vocabulary as its expectation. The number of candidates is one of few sizes (shapes to
        compile), and all of the vocabulary where that is smaller.
    Source:
        Horvitz and Thompson 1952; Madow 1949 (systematic sampling); Jean et al. 2015, arXiv:1412.2007.
    """
    present = np.unique(own)
    size = _shape_bucket(present.size + negatives) if negatives > 0 else vocabulary_size
    if size >= vocabulary_size:
        return CandidateWords(
            np.arange(vocabulary_size, dtype=np.int32), np.zeros(vocabulary_size, np.float32)
        )
    others = np.setdiff1d(np.arange(vocabulary_size, dtype=np.int32), present, assume_unique=True)
    inclusion = _inclusion_probabilities(
        (1.0 + others.astype(np.float64)) ** -_FREQUENCY_EXPONENT, size - present.size
    )
    chosen = _systematic_sample(inclusion, rng)
    ids = np.concatenate([present.astype(np.int32), others[chosen]])
    log_inclusion = np.concatenate([np.zeros(present.size), np.log(inclusion[chosen])]).astype(np.float32)
    order = np.argsort(ids)
    return CandidateWords(ids[order], log_inclusion[order])


def _shape_bucket(size: int) -> int:
    """Return the next of 256, 384, 512, 768, 1024, ...: few shapes to compile, at most half too large."""
    bucket = 256
    while bucket < size:
        bucket = bucket * 3 // 2 if bucket & (bucket - 1) == 0 else bucket * 4 // 3
    return bucket


def _inclusion_probabilities(weights: F64, count: int) -> F64:
    """Return probabilities proportional to the weights, none above 1, that add up to count."""
    certain = np.zeros(weights.size, np.bool_)
    while True:
        scale = (count - certain.sum()) / weights[~certain].sum()
        too_likely = ~certain & (weights * scale > 1)
        if not too_likely.any():
            return np.where(certain, 1.0, weights * scale)
        certain |= too_likely


def _systematic_sample(inclusion: F64, rng: np.random.Generator) -> I32:
    """Draw a sample of fixed size in which each index is included with its own probability."""
    order = rng.permutation(inclusion.size)
    ends = np.cumsum(inclusion[order])
    count = round(float(ends[-1]))
    points = rng.random() + np.arange(count)
    # Rounding may leave the last end a hair below count; the last point then still belongs to the last index.
    positions = np.minimum(np.searchsorted(ends, points, side="right"), inclusion.size - 1)
    return np.unique(order[positions]).astype(np.int32)
