"""Some users' personalisation as a job for a worker."""

from dataclasses import dataclass

from keyflock_client_sim.personalising.reader import TrunkReader
from keyflock_client_sim.personalising.typist import UserFigures, personalised
from keyflock_client_sim.personalising.users import UserMessages
from keyflock_client_sim.training.shelf import ModelDigest, ModelShelf
from keyflock_models.config import ModelConfig
from keyflock_models.layout import ParamLayout
from keyflock_models.neural_scorer import NeuralScorer
from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class PersonaliseUsers:
    """Learn and judge some users."""

    model: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary
    users: tuple[UserMessages, ...]
    blend: BlendPrior
    gain: GainPrior
    #: Whether the head's alternatives are fitted as well, for comparison.
    compares_heads: bool = False

    def run(self, shelf: ModelShelf) -> list[UserFigures]:
        """Does it, user by user."""
        weights = shelf.weights(self.model, ParamLayout.of(self.config))
        trunk = TrunkReader(NeuralScorer(self.config, weights, self.vocabulary))
        found = []
        for one in self.users:
            personal = PersonalModel.new(self.vocabulary, self.blend, self.gain)
            found.append(
                personalised(
                    one.user, one.earlier, one.later, personal, trunk, compares_heads=self.compares_heads
                )
            )
        return found
