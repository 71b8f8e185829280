"""Phones whose users have habits: a toy language in which everyone says a few phrases of their own."""

import itertools
import random
from pathlib import Path
from typing import TypeVar

import numpy as np

from keyflock_client_sim.training.job import Job
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.text.vocabulary import build_vocabulary

AnswerT = TypeVar("AnswerT")

CONFIG = ModelConfig.named("tiny")
LAYOUT = ParamLayout.for_config(CONFIG)
WORDS = ["".join(pair) for pair in itertools.product("abcdef", "ghijklmnop")]
VOCABULARY = build_vocabulary(WORDS, [1 / len(WORDS)] * len(WORDS), oov=0.1, eos=0.1)
#: A word that no list has: whoever finds it outside a phone has found a person's text.
PRIVATE_WORD = "quuxford"


def checkpoint() -> Checkpoint:
    """A trunk that has learned nothing, so that habits are worth much."""
    weights = np.random.default_rng(0).normal(0.0, 0.1, LAYOUT.size).astype(np.float32)
    return Checkpoint(CONFIG, VOCABULARY, weights)


def habits(seed: int, messages: int = 60) -> tuple[str, ...]:
    """What one user types: four phrases of five words, and now and then the private word."""
    rng = random.Random(seed)
    phrases = [" ".join(rng.sample(WORDS, 5)) for _ in range(4)]
    return tuple(
        rng.choice(phrases) + (f" {PRIVATE_WORD}" if number % 7 == 0 else "") for number in range(messages)
    )


class Here:
    """Workers without processes: jobs run where they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.models = ModelFolder(folder)
        self.jobs: list[Job[object]] = []

    def publish(self, body: bytes) -> ModelDigest:
        """Onto the shelf."""
        return self.models.publish(body)

    async def run(self, job: Job[AnswerT]) -> AnswerT:
        """Now."""
        self.jobs.append(job)
        return job.run(self.models)
