import numpy as np
import pytest

from keyflock_models.text.vocabulary import Vocabulary, build_vocabulary

WORDS = ["the", "to", "that", "tea", "team", "ten", "a", "zoo"]


@pytest.fixture(scope="session")
def words() -> Vocabulary:
    """Eight words; ids 4 to 11."""
    shares = np.array([8, 7, 6, 5, 4, 3, 2, 1]) / 40
    return build_vocabulary(WORDS, list(shares), oov=0.1, eos=0.1)
