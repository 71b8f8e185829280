"""One step of each optimiser, against numbers worked out by hand from the papers' formulas."""

import numpy as np
import pytest

from keyflock_server.aggregation.server_step import server_step
from keyflock_server.rounds.task import OPTIMIZER_DEFAULTS, OptimizerName

DELTA = np.array([0.5, -0.001, 0.0], np.float32)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("fedavg", [-0.5, 0.001, 0.0], [-1.0, 0.002, 0.0]),
        ("fedavgm", [-0.5, 0.001, 0.0], [-1.45, 0.0029, 0.0]),
        # Reddi et al., algorithm 2: v starts at eps squared; the step is 0.01 * delta / (root of v + eps).
        ("fedadagrad", [-0.0099800, 0.0041421, 0.0], [-0.0170411, 0.0078024, 0.0]),
        # With bias correction each step is about 0.01 * delta / (|delta| + eps) while the delta stays.
        ("fedadam", [-0.0099800, 0.0050000, 0.0], [-0.0199601, 0.0100000, 0.0]),
    ],
)
def test_two_steps_are_those_of_the_paper(
    name: OptimizerName, first: list[float], second: list[float]
) -> None:
    start = np.zeros(3, np.float32)

    one = server_step(start, None, DELTA, name, OPTIMIZER_DEFAULTS[name])
    two = server_step(one.weights, one.state, DELTA, name, OPTIMIZER_DEFAULTS[name])

    np.testing.assert_allclose(one.weights, first, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(two.weights, second, rtol=1e-4, atol=1e-8)
