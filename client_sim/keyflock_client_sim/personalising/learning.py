"""A personal model learns a user's messages in their order: judge, learn, and fit the head on the way.

Its gains are prequential: every word was judged by trunk and blend before anything had learned
from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from keyflock_client_sim.personalising.reader import TrunkReader, TrunkReading
from keyflock_models.arrays import F32, F64
from keyflock_models.personal.head import PersonalHead
from keyflock_models.personal.head_fitting import HeadSettings
from keyflock_models.personal.personal_model import Judgement, PersonalModel

#: The head is fitted when so much of the text is typed, so that the rest tells how far it is to be believed.
HEAD_AFTER: Final = 0.75


@dataclass(frozen=True, slots=True, eq=False)
class LearningGains:
    """Hits in the first three minus those of the trunk, word by word: -1, 0 or 1."""

    #: The gains of a strip with all its places for the blend. Shape (T,).
    blend: F64
    #: The gains of the strip that the user would have seen: the blend in the places that the gate gave it.
    shown: F64
    #: Words judged before the head was fitted.
    before_head: int


def learn_messages(
    model: PersonalModel, trunk: TrunkReader, messages: Sequence[str], settings: HeadSettings
) -> LearningGains:
    """Learn the messages; the model is changed in place and gets its head after three quarters."""
    readings = list(trunk.read(messages))
    boundary = round(HEAD_AFTER * len(readings))
    blend, shown, before_head = [np.zeros(0)], [np.zeros(0)], 0
    for place, reading in enumerate(readings):
        if place == boundary:
            model.set_head(fit_user_head(model, trunk, readings[:boundary], settings))
        places = model.gate.blend_slots
        judgement = judge_and_learn(model, trunk, reading)
        by_trunk = judgement.hits(0)
        blend.append(judgement.hits() - by_trunk)
        shown.append(judgement.hits(places) - by_trunk)
        before_head += judgement.words if place < boundary else 0
    return LearningGains(np.concatenate(blend), np.concatenate(shown), before_head)


def judge_and_learn(model: PersonalModel, trunk: TrunkReader, reading: TrunkReading) -> Judgement:
    """Judge one message before the model learns it, and then learn it."""
    ids = model.encode(reading.message)
    judgement = model.judge(ids, reading.probabilities, head_probabilities(model, trunk, reading))
    model.learn(reading.message, judgement)
    return judgement


def fit_user_head(
    model: PersonalModel, trunk: TrunkReader, readings: Sequence[TrunkReading], settings: HeadSettings
) -> PersonalHead | None:
    """Fit a head on these messages; return None if none was worth keeping."""
    if not readings:
        return None
    states = np.concatenate([one.states for one in readings])
    targets = np.concatenate([np.asarray(model.encode(one.message), np.int32) for one in readings])
    return trunk.fit(states, targets, settings)


def head_probabilities(model: PersonalModel, trunk: TrunkReader, reading: TrunkReading) -> F32 | None:
    """Return the trunk's probabilities with the user's head on it, shape (T, V); None without a head."""
    head = model.head_for(trunk.space)
    return None if head is None else trunk.with_head(head, reading.states)


def mean_and_variance(differences: F64) -> tuple[float, float]:
    """Return the mean of the differences, and its variance by chance; one more change is assumed than found.

    Edge cases:
        no words -> a mean of 0 that says nothing: variance 1
    """
    if not differences.size:
        return 0.0, 1.0
    variance = (differences.var() + 1.0 / differences.size) / differences.size
    return float(differences.mean()), float(variance)
