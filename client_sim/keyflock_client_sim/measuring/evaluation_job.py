"""Some users' share of a measurement, as a job for a worker."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keyflock_client_sim.measuring.scorers import ScorerSource
from keyflock_client_sim.training.shelf import ModelShelf
from keyflock_models.evaluation import Evaluation, evaluate
from keyflock_models.keystrokes import KeystrokeSavings, keystroke_savings


@dataclass(frozen=True, slots=True, eq=False)
class EvaluateUsers:
    """How well the words of some users are foreseen."""

    source: ScorerSource
    #: By user, rows of token ids, shape (N, L + 1), int32, one L for all.
    sequences: Mapping[str, npt.NDArray[np.int32]]

    def run(self, shelf: ModelShelf) -> Evaluation:
        """Scores every word of these users."""
        return evaluate(self.source.scorer(shelf), self.sequences)


@dataclass(frozen=True, slots=True, eq=False)
class SimulateTyping:
    """How many keystrokes some users would be spared."""

    source: ScorerSource
    sequences: Mapping[str, npt.NDArray[np.int32]]
    #: ``letters_in_messages`` of the same messages, same shapes.
    letters: Mapping[str, npt.NDArray[np.int32]]
    #: Words of each user that are typed.
    words_per_user: int
    seed: int

    def run(self, shelf: ModelShelf) -> KeystrokeSavings:
        """Types a sample of each user's words."""
        return keystroke_savings(
            self.source.scorer(shelf),
            self.source.vocabulary,
            self.sequences,
            self.letters,
            targets_per_user=self.words_per_user,
            seed=self.seed,
        )
