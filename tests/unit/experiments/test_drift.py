"""Heads over a drifting trunk, on a trunk of 64 words that three random steps move."""

from pathlib import Path

import jax
import numpy as np
import pytest

from keyflock_client_sim.experiments.drift.report import DriftResult
from keyflock_client_sim.experiments.drift.users import (
    DROP,
    KEEP,
    MAP,
    MAP_AND_REFIT,
    POLICIES,
    REFIT,
    MeasureDrift,
    UserDrift,
)
from keyflock_client_sim.experiments.drift.versions import (
    FitMaps,
    MeasureSteps,
    TrunkVersions,
    random_steps,
)
from keyflock_client_sim.experiments.personalisation.users import UserMessages
from keyflock_client_sim.training.model_folder import ModelFolder
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.cifg import init_params
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.public_vocabulary import public_vocabulary

CONFIG = ModelConfig.named("tiny")
STEPS = 3


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> DriftResult:
    vocabulary = public_vocabulary(size=CONFIG.vocabulary_size)
    params = init_params(CONFIG, jax.random.key(0), vocabulary.log_frequencies)
    start = Checkpoint(CONFIG, vocabulary, ParamLayout.for_config(CONFIG).flatten(params), {})
    models = ModelFolder(Path(tmp_path_factory.mktemp("shelf")))
    bodies = random_steps(start, STEPS, step_ratio=0.05, seed=1)
    versions = TrunkVersions(tuple(models.publish(body) for body in bodies), CONFIG, vocabulary)
    maps = tuple(FitMaps(versions, (1, 2, 3)).run(models))
    users = (
        UserMessages("a", ("you and the people of it say so",) * 60, ("you and the people of it",) * 4),
        UserMessages("b", ("so",), ("it is so", "xylo it")),
    )
    figures = MeasureDrift(versions, maps, users, refit_every=2).run(models)
    return DriftResult(tuple(figures), tuple(MeasureSteps(versions).run(models)), refit_every=2)


def of(user: str, measured: DriftResult) -> UserDrift:
    return next(one for one in measured.users if one.user == user)


def test_on_version_0_every_head_is_the_same_and_better_than_none(measured: DriftResult) -> None:
    user = of("a", measured)

    assert user.has_head
    assert len({user.nats[policy][0] for policy in (KEEP, MAP, REFIT, MAP_AND_REFIT)}) == 1
    assert user.nats[KEEP][0] < user.nats[DROP][0]


def test_a_head_is_set_aside_until_it_is_refitted(measured: DriftResult) -> None:
    user = of("a", measured)

    assert user.nats[REFIT][1] == user.nats[DROP][1]
    assert user.nats[REFIT][2] == user.nats[MAP_AND_REFIT][2] < user.nats[DROP][2]
    assert user.nats[REFIT][3] == user.nats[DROP][3]
    assert user.nats[MAP_AND_REFIT][3] < user.nats[DROP][3]


def test_a_mapped_head_is_another_than_the_kept_one(measured: DriftResult) -> None:
    user = of("a", measured)

    assert user.nats[MAP][STEPS] != user.nats[KEEP][STEPS]
    assert user.nats[MAP][STEPS] < user.nats[DROP][STEPS]


def test_a_user_without_a_head_has_the_trunk_under_every_policy(measured: DriftResult) -> None:
    user = of("b", measured)

    assert not user.has_head
    for policy in POLICIES:
        assert user.hits[policy].tolist() == user.hits[DROP].tolist()
    assert user.words == 5
    assert user.public_words < 5


def test_the_summary_has_means_of_every_policy(measured: DriftResult) -> None:
    summary = measured.summary()

    assert summary["changes"] == STEPS
    assert summary["share_with_head"] == 0.5
    policies = summary["policies"]
    assert isinstance(policies, dict)
    assert list(policies) == ["drop", "keep", "map", "refit", "map and refit"]
    assert policies["drop"]["gain_points"] == 0.0
    assert all(np.isfinite(list(figures.values())).all() for figures in policies.values())


def test_the_trunk_moves_away_step_by_step(measured: DriftResult) -> None:
    assert measured.moved[0] == 0.0
    assert list(measured.moved) == sorted(measured.moved)
    assert measured.moved[1] == pytest.approx(0.05, rel=0.2)
