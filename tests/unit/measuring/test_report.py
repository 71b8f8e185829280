"""A report names every model and every measure, as a table and as plain values."""

import json
from io import StringIO

import numpy as np
from rich.console import Console

from keyflock_client_sim.measuring.report import MeasuredModel, as_json, compare, print_report
from keyflock_models.evaluation.keystrokes import KeystrokeSavings
from keyflock_models.evaluation.measures import Evaluation
from keyflock_models.evaluation.per_user import PerUser

USERS = ("ann", "bo", "cy", "di")


def per_user(*hits: float) -> PerUser:
    return PerUser(np.array(hits), np.full(len(hits), 100.0))


def measured(name: str, *, recall_at_1: PerUser, typed: bool = False) -> MeasuredModel:
    other = per_user(20, 20, 20, 20)
    evaluation = Evaluation(USERS, recall_at_1, other, other, other, other, other)
    return MeasuredModel(
        name, evaluation, KeystrokeSavings(USERS, per_user(40, 40, 40, 40), other) if typed else None
    )


def test_a_gain_that_every_user_has_is_clear_of_zero() -> None:
    better = measured("model", recall_at_1=per_user(12, 14, 10, 20))
    worse = measured("unigram", recall_at_1=per_user(8, 10, 6, 16))

    gain = compare(better, worse, seed=1)["recall_at_1"]

    assert round(gain.difference, 9) == 0.04
    assert round(gain.low, 9) == round(gain.high, 9) == 0.04
    assert gain.is_significant


def test_the_table_has_a_row_a_model_and_the_gains_with_their_intervals() -> None:
    models = [
        measured("model", recall_at_1=per_user(12, 14, 10, 20), typed=True),
        measured("unigram", recall_at_1=per_user(8, 10, 6, 16)),
    ]
    out = StringIO()

    print_report(
        models,
        {"unigram": compare(models[0], models[1], seed=1)},
        Console(file=out, width=120),
        counted_text="all other text",
    )

    printed = out.getvalue()
    assert "4 held-out users, 400 words" in printed
    assert "14.00" in printed
    assert "40.00" in printed
    assert "model against unigram: recall@1 +4.00 points [+4.00, +4.00]" in printed
    assert "Baselines counted all other text." in printed


def test_the_plain_values_survive_json() -> None:
    models = [measured("model", recall_at_1=per_user(12, 14, 10, 20), typed=True)]

    report = json.loads(json.dumps(as_json(models, {})))

    assert (report["users"], report["words"], report["gains"]) == (4, 400, {})
    assert report["models"]["model"]["recall_at_1"]["micro"] == 0.14
    assert report["models"]["model"]["keystrokes_saved"]["p50"] == 0.4
