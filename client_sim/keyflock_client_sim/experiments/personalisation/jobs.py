"""This worker job evaluates the personalisation of some users."""

from dataclasses import dataclass

from keyflock_client_sim.experiments.personalisation.user_evaluation import UserResult, evaluate_user
from keyflock_client_sim.experiments.personalisation.users import UserMessages
from keyflock_client_sim.personalising.reader import TrunkReader
from keyflock_client_sim.training.model_folder import ModelDigest, ModelFolder
from keyflock_models.evaluation.neural_scorer import NeuralScorer
from keyflock_models.network.config import ModelConfig
from keyflock_models.network.layout import ParamLayout
from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.gate import GainPrior
from keyflock_models.personal.personal_model import PersonalModel
from keyflock_models.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class EvaluatePersonalisation:
    """A job that personalises and evaluates some users."""

    model: ModelDigest
    config: ModelConfig
    vocabulary: Vocabulary
    users: tuple[UserMessages, ...]
    blend: BlendPrior
    gain: GainPrior
    #: Whether the head's alternatives are fitted as well, for comparison.
    compares_heads: bool = False

    def run(self, models: ModelFolder) -> list[UserResult]:
        """Evaluate user by user."""
        weights = models.weights(self.model, ParamLayout.for_config(self.config))
        trunk = TrunkReader(NeuralScorer(self.config, weights, self.vocabulary))
        found = []
        for one in self.users:
            personal = PersonalModel.new(self.vocabulary, self.blend, self.gain)
            found.append(
                evaluate_user(
                    one.user, one.earlier, one.later, personal, trunk, compares_heads=self.compares_heads
                )
            )
        return found
