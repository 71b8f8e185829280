"""What is believed of a user before a word was typed: where `personalize` rounds have not said otherwise.

Measured on text messages and chat (docs/personalisation.md): the population's mean weights after all users'
earlier messages, for a trunk that was federated on other users of the same text. Rounds over such users
find nearly the same, and users who begin with what rounds found are suggested no better words.
"""

from typing import Final

import numpy as np

from keyflock_models.personal.blend import BlendPrior
from keyflock_models.personal.gate import GainPrior

#: By match: no context known; bigram rare, known, frequent; trigram once, known, frequent. Experts: trunk,
#: head, n-gram, cache. A head begins as likely as the trunk: what begins at nought stays there.
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
