import numpy as np
import pytest

from keyflock_models.arrays import F64
from keyflock_models.personal.blend import HEAD, TRUNK
from keyflock_models.personal.head_trust import MAX_AGE, HeadTrust
from keyflock_models.personal.priors import DEFAULT_BLEND
from keyflock_models.personal.words import PersonalStateError


def with_head_at(share: float) -> F64:
    weights = DEFAULT_BLEND.weights.copy()
    weights[:, HEAD], weights[:, TRUNK] = share, 1.0 - weights[:, 2:].sum(axis=1) - share
    return weights


def evidence(words: int, by_head: float, by_trunk: float = 0.1, seed: int = 0) -> F64:
    noise = np.exp(0.3 * np.random.default_rng(seed).normal(size=words))
    given = np.full((words, 4), 0.05)
    given[:, TRUNK], given[:, HEAD] = by_trunk, by_head * noise
    return given


def test_the_heads_weight_falls_with_every_change_and_the_trunk_takes_the_rest() -> None:
    head_trust, weights = HeadTrust(), with_head_at(0.2)
    seen = []

    for _ in range(12):
        seen.append(head_trust.discounted(weights))
        head_trust.trunk_changed()

    assert seen[0].tolist() == weights.tolist()
    shares = [one[0, HEAD] for one in seen]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == 12
    assert shares[4] == pytest.approx(0.1)
    assert shares[8] == pytest.approx(0.05)
    for one in seen:
        np.testing.assert_allclose(one.sum(axis=1), 1.0)
        assert one[:, 2:].tolist() == weights[:, 2:].tolist()


def test_a_head_that_proves_itself_on_the_new_trunk_has_its_weight_back() -> None:
    head_trust = HeadTrust()
    head_trust.trunk_changed(steps=3)

    head_trust.observe(evidence(100, by_head=0.15))

    assert head_trust.age == 0
    assert head_trust.trust_ratio == 1.0


def test_a_head_that_is_no_better_than_the_trunk_stays_old() -> None:
    head_trust = HeadTrust()
    head_trust.trunk_changed(steps=3)

    head_trust.observe(evidence(500, by_head=0.08))

    assert head_trust.age == 3


def test_a_few_words_prove_nothing() -> None:
    head_trust = HeadTrust()
    head_trust.trunk_changed()

    head_trust.observe(evidence(59, by_head=0.5))

    assert head_trust.age == 1
    head_trust.observe(evidence(2, by_head=0.5))
    assert head_trust.age == 0


def test_evidence_of_an_earlier_trunk_does_not_count() -> None:
    head_trust = HeadTrust()
    head_trust.trunk_changed()
    head_trust.observe(evidence(50, by_head=0.5))

    head_trust.trunk_changed()
    head_trust.observe(evidence(50, by_head=0.5))

    assert head_trust.age == 2


def test_words_that_only_the_history_knows_are_no_evidence() -> None:
    head_trust = HeadTrust(age=1)

    head_trust.observe(evidence(100, by_head=0.0, by_trunk=0.0))
    head_trust.observe(np.zeros((0, 4)))

    assert head_trust == HeadTrust(age=1)


def test_the_age_is_bounded() -> None:
    head_trust = HeadTrust()

    head_trust.trunk_changed(steps=10**9)

    assert head_trust.age == MAX_AGE
    assert head_trust.discounted(with_head_at(0.2))[0, HEAD] < 1e-9


def test_the_state_gives_the_same_standing() -> None:
    head_trust = HeadTrust(age=2)
    head_trust.observe(evidence(30, by_head=0.2))

    again = HeadTrust.from_state(head_trust.to_state())

    assert again.age == 2
    assert again.words == 30
    assert again.gain == pytest.approx(head_trust.gain)
    assert again.squares == pytest.approx(head_trust.squares)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age": -1}, "age"),
        ({"age": True}, "age"),
        ({"age": MAX_AGE + 1}, "age"),
        ({"evidence": [1.0, 2.0, 3.0]}, "three numbers"),
        ({"evidence": np.zeros(3)}, "three numbers"),
        ({"evidence": np.array([np.nan, 0, 0], np.float32)}, "contradicts"),
        ({"evidence": np.array([10, np.inf, 1], np.float32)}, "contradicts"),
        ({"evidence": np.array([10, 9, 1], np.float32)}, "contradicts"),
        ({"evidence": np.array([1, 0, 26], np.float32)}, "contradicts"),
    ],
)
def test_a_state_that_cannot_be_a_standing_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(PersonalStateError, match=reason):
        HeadTrust.from_state(HeadTrust().to_state() | change)


def test_something_else_is_no_standing() -> None:
    with pytest.raises(PersonalStateError, match="age"):
        HeadTrust.from_state(None)
