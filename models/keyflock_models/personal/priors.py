"""The default priors of a new user, for populations without the results of `personalize` rounds.

They were measured on text messages and chat (docs/personalisation.md): the population's mean weights after
all users' earlier messages, for a trunk that was federated on other users of the same text. Rounds over such
users find nearly the same, and users who begin with what rounds found get no better suggestions.
"""

from typing import Final

import numpy as np

from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.gate import GainPrior

#: One row per match bucket: no context known; bigram rare, known, frequent; trigram once, known, frequent.
#: Experts: trunk, head, n-gram, cache. A head begins as likely as the trunk, for EM never leaves zero.
DEFAULT_BLEND: Final = BlendPrior(
    np.array(
        [
            [0.375, 0.375, 0.11, 0.14],
            [0.330, 0.330, 0.20, 0.14],
            [0.300, 0.300, 0.28, 0.12],
            [0.290, 0.290, 0.30, 0.12],
            [0.225, 0.225, 0.45, 0.10],
            [0.190, 0.190, 0.53, 0.09],
            [0.190, 0.190, 0.53, 0.09],
        ]
    ),
    strength=90.0,
)
DEFAULT_GAIN: Final = GainPrior()
