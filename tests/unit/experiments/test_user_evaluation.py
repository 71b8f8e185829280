"""One user through the whole measurement, on a trunk that has learned nothing."""

from pathlib import Path

import numpy as np
import pytest
from tests.unit.personalising.phone_users import CONFIG, LAYOUT, VOCABULARY, Here, checkpoint, habits

from keyflock_client_sim.experiments.personalisation.arms import ARMS, BLEND, FROZEN, GLOBAL, PRODUCT, STRIPS
from keyflock_client_sim.experiments.personalisation.jobs import EvaluatePersonalisation
from keyflock_client_sim.experiments.personalisation.user_evaluation import UserResult
from keyflock_client_sim.experiments.personalisation.users import UserMessages
from keyflock_compression import encode_weights
from keyflock_models.personal.priors import DEFAULT_BLEND, DEFAULT_GAIN


@pytest.fixture(scope="module")
def habitual(tmp_path_factory: pytest.TempPathFactory) -> UserResult:
    workers = Here(Path(tmp_path_factory.mktemp("shelf")))
    messages = habits(1, messages=120)
    user = UserMessages("someone", messages[:100], messages[100:])
    digest = workers.publish(encode_weights(checkpoint().weights, LAYOUT))
    job = EvaluatePersonalisation(digest, CONFIG, VOCABULARY, (user,), DEFAULT_BLEND, DEFAULT_GAIN)
    return job.run(workers.models)[0]


def test_somebody_with_habits_gains_and_the_gate_opens(habitual: UserResult) -> None:
    assert habitual.places == 2
    assert habitual.arms[PRODUCT].at_3 > 2 * habitual.arms[GLOBAL].at_3
    assert habitual.arms[FROZEN].at_3 == habitual.arms[STRIPS[1]].at_3
    assert habitual.arms[FROZEN].strokes == habitual.arms[BLEND].strokes


def test_every_arm_is_judged_on_the_same_words(habitual: UserResult) -> None:
    assert set(ARMS) | {GLOBAL, FROZEN, PRODUCT, *STRIPS} == set(habitual.arms)
    assert habitual.words == len(habitual.differences)
    assert habitual.earlier_words == len(habitual.curve) == len(habitual.curve_trunk)
    assert habitual.differences.sum() == habitual.arms[PRODUCT].at_3 - habitual.arms[GLOBAL].at_3


def test_the_curve_begins_before_anything_was_learned(habitual: UserResult) -> None:
    assert habitual.curve[:5].tolist() == habitual.curve_trunk[:5].tolist()
    assert np.mean(habitual.curve[-100:]) > np.mean(habitual.curve_trunk[-100:])


def test_typing_takes_fewer_strokes_with_the_blend(habitual: UserResult) -> None:
    assert habitual.arms[BLEND].strokes < habitual.arms[GLOBAL].strokes <= habitual.full_strokes
