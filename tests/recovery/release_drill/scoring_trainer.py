"""Phones that train one-hot deltas, and score versions as a table says: how good each one is, by number."""

import random
from collections.abc import Mapping

from tests.recovery.one_hot_fleet import OneHotTrainer

from keyflock_client_sim.device.effects import Train
from keyflock_client_sim.device.input_events import Trained
from keyflock_compression import encode, parse_spec
from keyflock_models.evaluation.paired_scores import PairedScore, PairedScores, encode_scores, paired_layout

_WORDS = 100
#: The spread of one user's difference between two equal versions.
_SPREAD = 0.004


class ScoringTrainer(OneHotTrainer):
    """A trainer for both kinds of work.

    Args:
        quality: Recall@3 of each version, the same for all users but for a spread.
    """

    def __init__(self, quality: Mapping[int, float]) -> None:
        self._quality = quality

    async def train(self, phone: str, work: Train) -> Trained:
        """Return the phone's one-hot delta, or its scores of two versions."""
        plan = work.evaluating
        if plan is None:
            return await super().train(phone, work)
        rng = random.Random(f"{phone}:{work.model_version}:{plan.baseline_version}")
        candidate = self._quality[work.model_version] + rng.gauss(0.0, _SPREAD)
        score = PairedScore(candidate=candidate, baseline=self._quality[plan.baseline_version])
        measured = PairedScores(words=_WORDS, oov_rate=0.0, scores=dict.fromkeys(plan.metrics, score))
        vector = encode_scores(measured, plan.metrics)
        container = encode(vector, paired_layout(plan.metrics), parse_spec(work.codec), seed=0)
        return Trained(delta=container, examples=1)
