"""The weight of a report in the mean.

Example weights maximise the accuracy of the average word but let heavy typists dominate, and the number is
the phone's own claim; therefore it is capped. Uniform weights make every user count the same, and are the
only ones whose sensitivity to one user is known (differential privacy).

Source: McMahan et al. 2017, arXiv:1602.05629 (examples); McMahan et al. 2018, arXiv:1710.06963 (the cap).
"""

import math
from typing import assert_never

from keyflock_server.rounds.task import Aggregation


def weight_of(examples: int, rules: Aggregation) -> float:
    """Return the weight of a report that claims ``examples`` training sequences; above 0.

    Guarantees:
        At most ``rules.example_cap``, whatever the phone claims.
    """
    capped = min(max(examples, 1), rules.example_cap)
    match rules.weighting:
        case "capped_examples":
            return float(capped)
        case "sqrt_examples":
            return math.sqrt(capped)
        case "uniform":
            return 1.0
        case _:
            assert_never(rules.weighting)


def staleness_factor(versions: int) -> float:
    """Return the factor of the weight of a report that is so many versions stale; 1 at 0.

    Source: FedBuff, Nguyen et al. 2022, arXiv:2106.06639, section 5: 1 / sqrt(1 + staleness).
    """
    return 1.0 / math.sqrt(1.0 + versions)
