"""The anchor text is a slice of the public text that pre-training does not see."""

import numpy as np
import pytest

from keyflock_client_sim.corpora.text import UserText
from keyflock_client_sim.pretraining.public_text import PublicText
from keyflock_models.text.public_vocabulary import public_vocabulary

pytestmark = pytest.mark.fault("D8")

VOCABULARY = public_vocabulary(size=500)
WORDS = [word for word in VOCABULARY.words if word.isalpha()][:400]


def users(count: int, *, messages: int = 30) -> tuple[UserText, ...]:
    """Users who each say something that nobody else says."""
    messages_iter = iter(f"{first} {second}" for first in WORDS for second in WORDS)
    return tuple(
        UserText(f"user-{number}", tuple(next(messages_iter) for _ in range(messages)))
        for number in range(count)
    )


def pairs(rows: np.ndarray) -> set[tuple[int, int]]:
    """The two words of each message in these rows."""
    found = set()
    for row in rows:
        starts = np.flatnonzero(row == 1)
        found |= {(int(row[start + 1]), int(row[start + 2])) for start in starts if start + 2 < len(row)}
    return found


@pytest.mark.parametrize("count", [40, 5], ids=["users are kept back", "too few users to keep any back"])
def test_nothing_of_the_anchor_text_is_trained_on(count: int) -> None:
    text = PublicText.of(users(count), VOCABULARY, seed=0)

    assert text.anchor is not None
    assert len(pairs(text.anchor)) > 5
    assert not pairs(text.anchor) & pairs(text.rows)


def test_the_same_text_gives_the_same_anchor() -> None:
    first, second = (PublicText.of(users(40), VOCABULARY, seed=3) for _ in range(2))

    assert first.anchor is not None
    assert second.anchor is not None
    assert np.array_equal(first.anchor, second.anchor)


def test_a_text_that_is_too_short_to_hold_any_back_has_none() -> None:
    assert PublicText.of(users(1, messages=3), VOCABULARY, seed=0).anchor is None
