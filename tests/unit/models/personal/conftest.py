import numpy as np
import pytest

from keyflock_models.vocabulary import Vocabulary, vocabulary_of

WORDS = ["the", "to", "that", "tea", "team", "ten", "a", "zoo"]


@pytest.fixture(scope="session")
def words() -> Vocabulary:
    """Eight words; ids 4 to 11."""
    shares = np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 40
    return vocabulary_of(WORDS, list(shares), oov=0.1, eos=0.1)
