"""What a population believes of its users moves with each personalize round, and the best head wins."""

import numpy as np
import pytest
from numpy.typing import NDArray

from keyflock_models.personal.evidence import BOUNDS, EVIDENCE_LAYOUT, EXPERT_FLOOR, RESPONSIBILITIES
from keyflock_models.personal.head_fitting import HeadSettings
from keyflock_models.personal.history import MATCH_BUCKETS
from keyflock_models.personal.priors import DEFAULT_BLEND
from keyflock_server.aggregation.population_personalisation import (
    PopulationPersonalisation,
    after_round,
    blend_prior,
    first_prior,
    personalisation_from_json,
)
from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.protocol.plans import HeadPlan, PopulationPrior

NARROW, WIDE = HeadPlan(rank=4), HeadPlan(rank=16)


def mean_of(late_gain: float = 0.05, ngram: float = 0.25) -> NDArray[np.float32]:
    """The mean of phones that all gained a tenth and believed the n-gram a quarter of the time."""
    mean = np.zeros(EVIDENCE_LAYOUT.size, np.float32)
    parts = EVIDENCE_LAYOUT.unflatten(mean)
    for name, value in {"phones": 1.0, "gain": 0.1, "gain_squared": 0.02, "late_gain": late_gain}.items():
        parts[name][0] = value
    parts[RESPONSIBILITIES][:] = [1.0 - ngram, 0.0, ngram, 0.0]
    return mean


def after(
    before: PopulationPersonalisation | None,
    tried: HeadPlan,
    late_gain: float,
    *,
    phones: int = 100,
    candidates: tuple[HeadPlan, ...] = (NARROW, WIDE),
) -> PopulationPersonalisation:
    number = 1 if before is None else int(before.round[2:]) + 1
    found, _ = after_round(
        before,
        mean_of(late_gain),
        phones,
        minimum=4,
        tried=tried,
        candidates=candidates,
        round_id=RoundId(f"p-{number}"),
    )
    assert found is not None
    return found


def test_the_mean_of_a_round_becomes_the_prior() -> None:
    found = after(None, NARROW, 0.05)

    np.testing.assert_allclose(np.array(found.prior.blend)[:, 2], 0.25, atol=0.01)
    assert found.prior.strength == DEFAULT_BLEND.strength
    assert found.prior.gain_mean == pytest.approx(0.1)
    assert found.prior.gain_deviation == pytest.approx(0.1, abs=1e-5)
    assert (found.round, found.phones) == ("p-1", 100)


def test_with_too_few_phones_nothing_is_learned() -> None:
    known = after(None, NARROW, 0.05)

    for before in (None, known):
        found, figures = after_round(
            before,
            mean_of(),
            3,
            minimum=4,
            tried=NARROW,
            candidates=(NARROW,),
            round_id=RoundId("p-2"),
        )

        assert found is before
        assert figures["phones"] == 3.0


def test_a_round_whose_end_was_stored_already_moves_nothing_again() -> None:
    known = after(None, NARROW, 0.05)

    again, figures = after_round(
        known,
        mean_of(),
        100,
        minimum=4,
        tried=NARROW,
        candidates=(NARROW,),
        round_id=known.round,
    )

    assert again is known
    assert figures["gain"] == pytest.approx(0.1)


def test_the_candidate_with_the_largest_gain_is_the_populations_head() -> None:
    first = after(None, NARROW, 0.05)
    second = after(first, WIDE, 0.07)

    assert first.head == NARROW
    assert second.head == WIDE
    assert second.release().head == WIDE
    assert [one.gain for one in second.candidates] == pytest.approx([0.07, 0.05])


def test_what_a_candidate_gave_before_counts_half_when_it_is_tried_again() -> None:
    again = after(after(None, NARROW, 0.03), NARROW, 0.06)

    assert again.candidates[0].phones == 150.0
    assert again.candidates[0].gain == pytest.approx(0.05)


def test_a_candidate_that_the_task_has_no_more_is_forgotten() -> None:
    found = after(after(None, NARROW, 0.09), WIDE, 0.01, candidates=(WIDE,))

    assert [one.head for one in found.candidates] == [WIDE]


def test_it_is_stored_and_read_back_unchanged() -> None:
    found = after(None, NARROW, 0.05)

    assert personalisation_from_json(found.to_json()) == found


def test_before_any_round_every_expert_gets_a_chance() -> None:
    weights = blend_prior(first_prior()).weights

    assert weights.min() >= EXPERT_FLOOR
    assert np.abs(weights - DEFAULT_BLEND.weights).max() < 0.03


def test_the_plan_that_travels_is_the_personal_models_own() -> None:
    mixtures = first_prior().blend

    assert HeadPlan.__struct_defaults__ == tuple(
        getattr(HeadSettings(), name) for name in HeadPlan.__struct_fields__
    )
    assert (len(mixtures), len(mixtures[0])) == (MATCH_BUCKETS, 4)
    assert PopulationPrior.__struct_fields__ == ("blend", "strength", "gain_mean", "gain_deviation")
    assert "phones" in BOUNDS
