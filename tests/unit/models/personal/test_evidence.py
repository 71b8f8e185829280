"""One phone's evidence is bounded and named; the mean of many phones' says what all of them together say."""

import numpy as np
import pytest

from keyflock_models.arrays import F32
from keyflock_models.personal.blend import EXPERTS, BlendPrior
from keyflock_models.personal.evidence import (
    BOUNDS,
    EVIDENCE_LAYOUT,
    RESPONSIBILITIES,
    PersonalMeasurements,
    apply_floors,
    encode_evidence,
    evidence_problem,
    population_priors,
)
from keyflock_models.personal.gate import Gate
from keyflock_models.personal.history import MATCH_BUCKETS
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.text.vocabulary import Vocabulary

SHAPE = (MATCH_BUCKETS, len(EXPERTS))
BEFORE = BlendPrior(np.full(SHAPE, 0.25), strength=10.0)


def measured(**other: float) -> PersonalMeasurements:
    """A phone on which all went well."""
    expected = {
        "words": 400,
        "gain": 0.05,
        "noise_variance": 0.0001,
        "late_gain": 0.06,
        "shown_gain": 0.04,
        "shown_noise_variance": 0.0001,
        "stored_bytes": 9_000,
        "seconds": 3.0,
    } | other
    return PersonalMeasurements(**expected)  # type: ignore[arg-type]  # words and bytes are whole above


def model_of(vocabulary: Vocabulary, responsibilities: float = 2.0) -> PersonalModel:
    model = PersonalModel.new(vocabulary)
    model.weights.responsibilities[:] = responsibilities
    return model


def named(vector: F32) -> dict[str, float]:
    parts = EVIDENCE_LAYOUT.unflatten(vector)
    return {name: float(parts[name][0]) for name in BOUNDS}


def changed(vector: F32, name: str, value: float) -> F32:
    other = vector.copy()
    EVIDENCE_LAYOUT.unflatten(other)[name].flat[0] = value
    return other


def test_what_was_measured_is_found_at_its_place(words: Vocabulary) -> None:
    model = model_of(words)
    model.gate = Gate.opened()

    vector = encode_evidence(model, measured())

    assert vector.dtype == np.float32
    assert named(vector) == pytest.approx(
        {
            "phones": 1.0,
            "words": 400.0,
            "gain": 0.05,
            "gain_squared": 0.0025,
            "noise_variance": 0.0001,
            "late_gain": 0.06,
            "helped": 1.0,
            "hurt": 0.0,
            "gate_open": 1.0,
            "has_head": 0.0,
            "stored_bytes": 9_000.0,
            "seconds": 3.0,
        }
    )
    rows = EVIDENCE_LAYOUT.unflatten(vector)[RESPONSIBILITIES]
    np.testing.assert_allclose(rows * 1_000, model.weights.responsibilities, rtol=1e-6)
    assert evidence_problem(vector) == ""


@pytest.mark.parametrize(
    ("shown_gain", "helped", "hurt"),
    [(0.02, 1.0, 0.0), (0.01, 0.0, 0.0), (-0.01, 0.0, 0.0), (-0.02, 0.0, 1.0)],
)
def test_help_and_harm_need_evidence(
    words: Vocabulary, shown_gain: float, helped: float, hurt: float
) -> None:
    vector = encode_evidence(model_of(words), measured(shown_gain=shown_gain))

    assert (named(vector)["helped"], named(vector)["hurt"]) == (helped, hurt)


@pytest.mark.parametrize(("shown_gain", "hurt"), [(-0.0019, 0.0), (-0.002, 0.0), (-0.0021, 1.0)])
def test_a_small_loss_is_no_harm_however_sure_it_is(
    words: Vocabulary, shown_gain: float, hurt: float
) -> None:
    vector = encode_evidence(model_of(words), measured(shown_gain=shown_gain, shown_noise_variance=1e-12))

    assert named(vector)["hurt"] == hurt


def test_nothing_gained_is_no_help(words: Vocabulary) -> None:
    vector = encode_evidence(model_of(words), measured(shown_gain=0.0, shown_noise_variance=0.0))

    assert (named(vector)["helped"], named(vector)["hurt"]) == (0.0, 0.0)


def test_the_bounds_are_those_that_phones_in_the_field_clip_to() -> None:
    assert dict(BOUNDS) == {
        "phones": (1, 1),
        "words": (0, 100_000),
        "gain": (-1, 1),
        "gain_squared": (0, 1),
        "noise_variance": (0, 1),
        "late_gain": (-1, 1),
        "helped": (0, 1),
        "hurt": (0, 1),
        "gate_open": (0, 1),
        "has_head": (0, 1),
        "stored_bytes": (0, 131_072),
        "seconds": (0, 86_400),
    }


@pytest.mark.parametrize("beyond", [-1e9, 1e9])
@pytest.mark.parametrize(
    "name", ["words", "gain", "noise_variance", "late_gain", "shown_gain", "stored_bytes", "seconds"]
)
def test_an_honest_phone_clips_and_is_never_refused(words: Vocabulary, name: str, beyond: float) -> None:
    value = abs(beyond) if "variance" in name else beyond

    vector = encode_evidence(model_of(words, 1e6), measured(**{name: value}))

    assert evidence_problem(vector) == ""


def test_who_types_more_than_a_row_holds_says_no_more(words: Vocabulary) -> None:
    model = model_of(words, 0.0)
    model.weights.responsibilities[0] = [3_000.0, 0.0, 1_000.0, 0.0]

    rows = EVIDENCE_LAYOUT.unflatten(encode_evidence(model, measured()))[RESPONSIBILITIES]

    np.testing.assert_allclose(rows[0], [0.75, 0.0, 0.25, 0.0], rtol=1e-6)
    assert not rows[1:].any()


@pytest.mark.parametrize("name", [name for name in BOUNDS if name != "gain"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_place_beyond_its_bounds_is_refused_by_name(words: Vocabulary, name: str, side: int) -> None:
    honest = encode_evidence(model_of(words), measured())
    beyond = BOUNDS[name][side] + (1.0 if side else -1.0)

    assert f"evidence's {name} " in evidence_problem(changed(honest, name, beyond))


def test_evidence_that_contradicts_itself_is_refused(words: Vocabulary) -> None:
    honest = encode_evidence(model_of(words), measured())

    assert "gain_squared" in evidence_problem(changed(honest, "gain_squared", 1.0))
    assert "gain" in evidence_problem(changed(honest, "gain", 1.5))
    assert RESPONSIBILITIES in evidence_problem(changed(honest, RESPONSIBILITIES, 1.01))
    assert RESPONSIBILITIES in evidence_problem(changed(honest, RESPONSIBILITIES, -0.01))


def test_rounding_is_tolerated_up_to_a_ten_thousandth(words: Vocabulary) -> None:
    # 0.05 is the gain; its square is 0.0025.
    honest = encode_evidence(model_of(words), measured())
    within, beyond = honest.copy(), honest.copy()
    EVIDENCE_LAYOUT.unflatten(within)[RESPONSIBILITIES][0] = [0.5, 0.50009, 0.0, 0.0]
    EVIDENCE_LAYOUT.unflatten(beyond)[RESPONSIBILITIES][0] = [0.5, 0.50011, 0.0, 0.0]

    assert evidence_problem(within) == ""
    assert RESPONSIBILITIES in evidence_problem(beyond)
    for distance in (-0.00009, 0.00009):
        assert evidence_problem(changed(honest, "gain_squared", 0.0025 + distance)) == ""
    for distance in (-0.00011, 0.00011):
        assert "gain_squared" in evidence_problem(changed(honest, "gain_squared", 0.0025 + distance))


def test_the_mean_of_many_phones_gives_the_priors_computed_directly(words: Vocabulary) -> None:
    rng = np.random.default_rng(3)
    gains = rng.normal(0.05, 0.04, 40)
    noises = rng.uniform(0.0001, 0.0004, 40)
    counts = rng.uniform(0.0, 200.0, (40, *SHAPE))
    vectors = []
    for gain, noise, count in zip(gains, noises, counts, strict=True):
        model = model_of(words)
        model.weights.responsibilities[:] = count
        vectors.append(encode_evidence(model, measured(gain=gain, noise_variance=noise, late_gain=gain)))

    found = population_priors(np.mean(vectors, axis=0, dtype=np.float32), 40, BEFORE)

    total = counts.sum(axis=0) + BEFORE.strength * BEFORE.weights
    direct = apply_floors(total / total.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.blend.weights, direct, atol=1e-5)
    assert found.gain.mean == pytest.approx(gains.mean(), abs=1e-6)
    assert found.gain.deviation == pytest.approx(np.sqrt(gains.var() - noises.mean()), abs=1e-4)
    assert found.late_gain == pytest.approx(gains.mean(), abs=1e-6)
    assert found.blend.strength == 10.0


def test_the_figures_are_the_means_by_name(words: Vocabulary) -> None:
    open_phone, shut_phone = model_of(words), model_of(words)
    open_phone.gate = Gate.opened()
    vectors = [
        encode_evidence(open_phone, measured()),
        encode_evidence(shut_phone, measured(words=200, shown_gain=-0.1, stored_bytes=1_000, seconds=1.0)),
    ]

    found = population_priors(np.mean(vectors, axis=0, dtype=np.float32), 2, BEFORE)

    assert found.figures == pytest.approx(
        {
            "phones": 2.0,
            "words": 300.0,
            "gain": 0.05,
            "gain_deviation": 0.01,
            "late_gain": 0.06,
            "share_helped": 0.5,
            "share_hurt": 0.5,
            "share_open": 0.5,
            "share_with_head": 0.0,
            "stored_bytes": 5_000.0,
            "seconds": 2.0,
        }
    )


def test_where_no_word_was_seen_the_earlier_belief_stays(words: Vocabulary) -> None:
    vector = encode_evidence(model_of(words, 0.0), measured())

    found = population_priors(vector, 8, BEFORE)

    np.testing.assert_allclose(found.blend.weights, BEFORE.weights, rtol=1e-6)


def test_phones_that_all_say_the_same_do_not_make_users_the_same(words: Vocabulary) -> None:
    vector = encode_evidence(model_of(words), measured())

    assert population_priors(vector, 8, BEFORE).gain.deviation == pytest.approx(0.01)


@pytest.mark.parametrize("expert", range(len(EXPERTS)))
def test_no_expert_is_ever_lost_and_the_trunk_keeps_its_floor(expert: int) -> None:
    mixtures = np.zeros(SHAPE)
    mixtures[:, expert] = 1.0

    floored = apply_floors(mixtures)

    np.testing.assert_allclose(floored.sum(axis=1), 1.0)
    floors = [0.1, 0.01, 0.01, 0.01]
    room = 1.0 - 0.13
    expected = [floor + room * (at == expert) for at, floor in enumerate(floors)]
    np.testing.assert_allclose(floored, np.tile(expected, (MATCH_BUCKETS, 1)))
    np.testing.assert_allclose(apply_floors(np.full(SHAPE, 0.25)), 0.25)
