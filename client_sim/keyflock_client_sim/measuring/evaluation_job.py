"""These worker jobs measure a model on some of the users."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.measuring.scorers import ScorerSource
from keyflock_client_sim.training.model_folder import ModelFolder
from keyflock_models.evaluation.keystrokes import KeystrokeSavings, keystroke_savings
from keyflock_models.evaluation.measures import Evaluation, evaluate


@dataclass(frozen=True, slots=True, eq=False)
class EvaluateUsers:
    """A job that measures how well a model predicts the words of some users."""

    source: ScorerSource
    #: Rows of token ids by user, shape (N, L + 1), int32, one L for all.
    sequences: Mapping[str, npt.NDArray[np.int32]]

    def run(self, models: ModelFolder) -> Evaluation:
        """Score every word of these users."""
        return evaluate(self.source.scorer(models), self.sequences)


@dataclass(frozen=True, slots=True, eq=False)
class SimulateTyping:
    """A job that measures how many keystrokes some users would save."""

    source: ScorerSource
    sequences: Mapping[str, npt.NDArray[np.int32]]
    #: ``letters_in_messages`` of the same messages, same shapes.
    letters: Mapping[str, npt.NDArray[np.int32]]
    #: Words of each user that are typed.
    words_per_user: int
    seed: int

    def run(self, models: ModelFolder) -> KeystrokeSavings:
        """Type a sample of each user's words."""
        return keystroke_savings(
            self.source.scorer(models),
            self.source.vocabulary,
            self.sequences,
            self.letters,
            targets_per_user=self.words_per_user,
            seed=self.seed,
        )
