"""What is measured of a step: lengths, the longest row, the loss on the anchor text; finite or not at all."""

import numpy as np
import pytest
from tests.unit.coordinator.harness import CONFIG, LAYOUT, constant

from keyflock_models.arrays import F32, I32
from keyflock_models.network.anchor_loss import anchor_loss
from keyflock_models.network.checkpoint import Checkpoint
from keyflock_models.text.vocabulary import build_vocabulary
from keyflock_server.releases.step_figures import StepFigures, step_figures

pytestmark = pytest.mark.fault("D8")

VOCABULARY = build_vocabulary([f"word{number}" for number in range(8)], [0.125] * 8, oov=0.1, eos=0.1)
ANCHOR = np.array([[1, 4, 5, 6, 2], [1, 7, 8, 9, 2]], np.int32)


def measured(weights: F32, mean_delta: F32, anchor: I32 | None = ANCHOR) -> StepFigures:
    before = Checkpoint(CONFIG, VOCABULARY, constant(0.0), anchor=anchor)
    return step_figures(before, weights, mean_delta, loss_before=2.5, loss_chosen=2.0)


def test_lengths_are_of_the_whole_step_and_of_its_longest_word() -> None:
    step = constant(0.0)
    embedding = LAYOUT.unflatten(step)["embedding"]
    embedding[3] = (3.0, 4.0)
    embedding[5] = (0.0, 12.0)

    figures = measured(-step, step)

    assert (figures.step_norm, figures.step_row_norm) == (13.0, 12.0)
    assert (figures.mean_delta_norm, figures.mean_delta_row_norm) == (13.0, 12.0)
    assert (figures.anchor_loss_before, figures.anchor_loss_chosen) == (2.5, 2.0)


def test_the_loss_is_that_of_the_new_weights() -> None:
    weights = np.linspace(-1.0, 1.0, LAYOUT.size, dtype=np.float32)

    figures = measured(weights, constant(0.1))

    assert figures.anchor_loss == anchor_loss(CONFIG, VOCABULARY, weights, ANCHOR)
    assert measured(weights, constant(0.1), anchor=None).anchor_loss is None


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e19, 3e38])
def test_a_weight_that_no_arithmetic_survives_is_counted_and_nothing_else_breaks(value: float) -> None:
    weights = constant(1.0)
    weights[[0, 7]] = value

    figures = measured(weights, constant(0.1))

    assert figures.non_finite_weights == 2
    assert figures.anchor_loss is None
    assert StepFigures.from_json(figures.to_json()) == figures


def test_a_mean_that_overflowed_is_left_out_of_the_figures() -> None:
    figures = measured(constant(1.0), constant(np.inf))

    assert figures.mean_delta_norm is None
    assert figures.mean_delta_row_norm is None
