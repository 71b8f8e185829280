import numpy as np
import pytest

from keyflock_models.personal.gate import GainEvidence, GainPrior, Gate
from keyflock_models.personal.words import PersonalStateError


def shown(gate: Gate, sentences: int, *, gains: int, losses: int, words: int = 10) -> Gate:
    """The same evidence for both strips."""
    for _ in range(sentences):
        gate.observe(words, (gains, losses), (gains, losses))
    return gate


def test_the_gate_is_shut_until_there_is_evidence() -> None:
    gate = Gate()

    shown(gate, 5, gains=2, losses=0)
    after_50_words = gate.blend_slots
    shown(gate, 2, gains=2, losses=0)

    assert (after_50_words, gate.blend_slots) == (0, 2)


def test_as_many_losses_as_gains_keep_it_shut() -> None:
    assert not shown(Gate(), 300, gains=1, losses=1).is_open


def test_a_gain_within_chance_keeps_it_shut() -> None:
    # 22 gains against 18 losses: a difference of 4 with a standard error of about 6.3.
    gate = Gate()
    for turn in range(40):
        change = (1, 0) if turn * 11 % 20 < 11 else (0, 1)
        gate.observe(10, change, change)

    assert not gate.is_open


def test_a_gain_that_nobody_would_notice_keeps_it_shut() -> None:
    # One hit in two hundred words more, without a single loss, for twenty thousand words.
    assert not shown(Gate(), 100, gains=1, losses=0, words=200).is_open


def test_a_second_place_wants_a_larger_gain() -> None:
    # Three hits in a hundred words more: above what one place must prove, below what two must.
    assert shown(Gate(), 200, gains=3, losses=0, words=100).blend_slots == 1


def test_the_second_place_is_given_after_the_first() -> None:
    gate = Gate()

    for _ in range(100):
        gate.observe(10, (0, 0), (2, 0))

    assert gate.is_proved == (False, True)
    assert gate.blend_slots == 0


def test_nothing_changed_is_no_evidence() -> None:
    assert not shown(Gate(), 1_000, gains=0, losses=0).is_open


def test_once_open_it_stays_open_until_the_estimate_is_a_loss() -> None:
    gate = shown(Gate(), 40, gains=2, losses=0)
    states = []

    while gate.is_open:
        gate.observe(10, (0, 2), (0, 2))
        states.append(gate.evidence[0].gain)

    # 80 net gains before; it shuts as soon as as many were lost, decay included.
    assert 36 <= len(states) <= 41
    assert states[-1] <= 0.0 < states[-2]


def test_few_words_are_judged_as_the_population_is() -> None:
    losers = GainPrior(mean=-0.05, deviation=0.01)
    alike = shown(Gate(losers), 8, gains=1, losses=0)
    gainers = GainPrior(mean=0.05, deviation=0.01)
    lucky = shown(Gate(gainers), 8, gains=0, losses=0)

    assert not alike.is_open
    assert lucky.is_open


def test_the_estimate_is_the_normal_models() -> None:
    evidence = GainEvidence()

    evidence.observe(100, 10, 5)

    # Own: mean 0.05, variance (15 + 1) / 100 - 0.05**2 = 0.1575, of the mean 0.001575; prior 0.0009.
    own, prior = 1 / 0.001575, 1 / 0.0009
    mean, deviation = evidence.estimate(GainPrior(mean=0.02, deviation=0.03))
    assert mean == pytest.approx((own * 0.05 + prior * 0.02) / (own + prior))
    assert deviation == pytest.approx((own + prior) ** -0.5)


def test_the_state_gives_the_same_gate() -> None:
    gate = shown(Gate(), 20, gains=2, losses=1)

    again = Gate.from_state(gate.to_state(), GainPrior())

    assert again.is_proved == gate.is_proved
    for one, other in zip(again.evidence, gate.evidence, strict=True):
        assert one.estimate(GainPrior()) == pytest.approx(other.estimate(GainPrior()), rel=1e-5)


def evidence(*row: float) -> np.ndarray:
    return np.array([row, (0.0, 0.0, 0.0)], np.float32)


@pytest.mark.parametrize(
    "state",
    [
        None,
        {"is_proved": [1, 0], "evidence": evidence(0, 0, 0)},
        {"is_proved": [True], "evidence": evidence(0, 0, 0)},
        {"is_proved": [True, True], "evidence": np.zeros(3, np.float32)},
        {"is_proved": [True, True], "evidence": evidence(10, 20, 20)},
        {"is_proved": [True, True], "evidence": evidence(10, 5, 3)},
        {"is_proved": [True, True], "evidence": evidence(np.nan, 0, 0)},
    ],
)
def test_stored_evidence_that_contradicts_itself_is_refused(state: object) -> None:
    with pytest.raises(PersonalStateError):
        Gate.from_state(state, GainPrior())
