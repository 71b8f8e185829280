"""One phone's paired scores are bounded and named, and their sums are what the server computes with."""

import numpy as np
import pytest

from keyflock_models.arrays import F32
from keyflock_models.evaluation.paired_scores import (
    ENTRIES,
    FIGURES,
    METRICS,
    PairedScore,
    PairedScores,
    encode_scores,
    mean_figures,
    paired_layout,
    scores_problem,
    sums_by_metric,
)

BOTH = ("recall_at_3", "nll")
LAYOUT = paired_layout(BOTH)


def measured(candidate: float = 0.25, baseline: float = 0.5, words: int = 80) -> PairedScores:
    scores = {"recall_at_3": PairedScore(candidate, baseline), "nll": PairedScore(5.0, 4.0)}
    return PairedScores(words=words, oov_rate=0.125, scores=scores)


def changed(vector: F32, name: str, value: float) -> F32:
    other = vector.copy()
    LAYOUT.unflatten(other)[name][0] = value
    return other


def test_what_was_measured_is_found_at_its_place() -> None:
    vector = encode_scores(measured(), BOTH)

    named = {name: float(part[0]) for name, part in LAYOUT.unflatten(vector).items()}
    assert vector.dtype == np.float32
    assert named == {
        "phones": 1.0,
        "words": 80.0,
        "oov_rate": 0.125,
        "recall_at_3.candidate": 0.25,
        "recall_at_3.baseline": 0.5,
        "recall_at_3.candidate_squared": 0.0625,
        "recall_at_3.baseline_squared": 0.25,
        "recall_at_3.product": 0.125,
        "nll.candidate": 5.0,
        "nll.baseline": 4.0,
        "nll.candidate_squared": 25.0,
        "nll.baseline_squared": 16.0,
        "nll.product": 20.0,
    }
    assert scores_problem(vector, BOTH) == ""


def test_the_bounds_are_those_that_phones_in_the_field_clip_to() -> None:
    assert dict(METRICS) == {
        "recall_at_1": (0, 1),
        "recall_at_3": (0, 1),
        "mrr_at_10": (0, 1),
        "ksr": (0, 1),
        "nll": (0, 20),
    }
    assert dict(FIGURES) == {"phones": (1, 1), "words": (1, 100_000), "oov_rate": (0, 1)}
    assert ENTRIES == ("candidate", "baseline", "candidate_squared", "baseline_squared", "product")


@pytest.mark.parametrize("metrics", [(), ("nll", "recall_at_3"), ("nll", "nll"), ("perplexity",)])
def test_a_layout_is_of_known_metrics_in_their_order(metrics: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="metrics are some of recall_at_1, recall_at_3"):
        paired_layout(metrics)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("phones", 2.0, "the evaluation's phones is not between 1 and 1"),
        ("phones", 0.0, "the evaluation's phones is not between 1 and 1"),
        ("words", 0.0, "the evaluation's words is not between 1 and 100000"),
        ("words", 1e6, "the evaluation's words is not between 1 and 100000"),
        ("oov_rate", 1.5, "the evaluation's oov_rate is not between 0 and 1"),
        ("recall_at_3.candidate", 1.5, "the evaluation's recall_at_3 is not between 0 and 1"),
        ("recall_at_3.baseline", -0.5, "the evaluation's recall_at_3 is not between 0 and 1"),
        ("nll.candidate", 20.5, "the evaluation's nll is not between 0 and 20"),
        ("recall_at_3.candidate", 0.26, "squares of recall_at_3 are not those of its means"),
        ("recall_at_3.candidate_squared", 0.063, "squares of recall_at_3 are not those of its means"),
        ("recall_at_3.baseline_squared", 0.0, "squares of recall_at_3 are not those of its means"),
        ("recall_at_3.product", -0.125, "squares of recall_at_3 are not those of its means"),
        ("nll.product", 20.001, "squares of nll are not those of its means"),
    ],
)
def test_a_vector_that_no_honest_phone_sends_is_refused(name: str, value: float, problem: str) -> None:
    found = scores_problem(changed(encode_scores(measured(), BOTH), name, value), BOTH)

    assert found.endswith(problem)


def test_a_phone_that_squares_in_double_precision_is_not_refused() -> None:
    vector = encode_scores(measured(candidate=0.1, baseline=1 / 3), BOTH)

    by_double = changed(vector, "recall_at_3.candidate_squared", 0.1 * 0.1)
    by_double = changed(by_double, "recall_at_3.product", 0.1 / 3)

    assert scores_problem(by_double, BOTH) == ""


def test_an_honest_phone_clips_and_is_never_refused() -> None:
    beyond = PairedScores(
        words=10**7,
        oov_rate=2.0,
        scores={"recall_at_3": PairedScore(-0.5, 7.0), "nll": PairedScore(1e9, -1.0)},
    )

    vector = encode_scores(beyond, BOTH)

    assert scores_problem(vector, BOTH) == ""
    assert float(LAYOUT.unflatten(vector)["nll.candidate"][0]) == 20.0


def test_equal_versions_have_equal_entries_to_the_bit() -> None:
    vector = encode_scores(measured(candidate=0.3, baseline=0.3), BOTH)

    rows = LAYOUT.unflatten(vector)
    squares = {rows[f"recall_at_3.{name}"].tobytes() for name in ENTRIES[2:]}
    assert len(squares) == 1


def test_sums_are_named_by_metric_and_entry() -> None:
    total = encode_scores(measured(), BOTH) + encode_scores(measured(candidate=0.75, words=40), BOTH)

    sums = sums_by_metric(total, BOTH)

    assert sums["recall_at_3"] == {
        "candidate": 1.0,
        "baseline": 1.0,
        "candidate_squared": 0.625,
        "baseline_squared": 0.5,
        "product": 0.5,
    }
    assert mean_figures(total / 2) == {"words": 60.0, "oov_rate": 0.125}
