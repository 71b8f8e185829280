"""From users to the figures that decide, and to what is printed of them."""

import numpy as np
import pytest
from rich.console import Console

from keyflock_client_sim.experiments.personalisation.arms import BLEND, FROZEN, GLOBAL, PRODUCT
from keyflock_client_sim.experiments.personalisation.report import print_report, print_summary
from keyflock_client_sim.experiments.personalisation.results import PersonalisationResult, mean_weights
from keyflock_client_sim.experiments.personalisation.user_evaluation import ArmScores, UserResult
from keyflock_models.arrays import I32


def user(name: str, hits: int, gained: int, lost: int, words: int = 100, *, places: int = 2) -> UserResult:
    """One whose product won and lost so many hits against the trunk's."""
    differences: I32 = np.zeros(words, np.int32)
    differences[:gained], differences[gained : gained + lost] = 1, -1
    after = ArmScores(at_1=hits // 2, at_3=hits + gained - lost, nll=50.0)
    figures = UserResult(name, words=words, public_words=words, differences=differences, places=places)
    figures.arms = {
        GLOBAL: ArmScores(at_1=hits // 3, at_3=hits, nll=60.0, strokes=300),
        BLEND: after,
        FROZEN: after,
        PRODUCT: after,
    }
    figures.responsibilities = np.full((7, 4), float(words))
    figures.full_strokes, figures.state_bytes = 500, 5_000
    return figures


FOUND = PersonalisationResult(
    (user("a", 20, 10, 0), user("b", 20, 2, 0), user("c", 20, 0, 0, places=0), user("d", 20, 0, 4))
)


def test_the_headline_is_of_means_over_users() -> None:
    headline = FOUND.headline()

    assert headline["users"] == 4
    assert headline["global_recall_at_3"] == pytest.approx(0.20)
    assert headline["blended_recall_at_3"] == pytest.approx(0.22)
    assert headline["relative_gain"] == pytest.approx(0.10)
    assert headline["p5_gain"] == pytest.approx(-3.4)


def test_only_a_loss_with_evidence_is_harm() -> None:
    # Four of 100 lost: a mean of -0.04 with a deviation of about 0.022; one of 100 could be chance.
    one_lost = PersonalisationResult((user("a", 20, 0, 1), user("b", 20, 0, 4)))

    assert one_lost.share_hurt == 0.5
    assert one_lost.share_lower == 1.0


def test_a_gain_too_small_to_matter_is_no_harm_either() -> None:
    assert PersonalisationResult((user("a", 200, 0, 1, words=1_000),)).share_lower == 0.0


def test_the_prior_of_other_users_is_their_mean_mixture() -> None:
    weights = mean_weights(FOUND.users)

    assert weights.tolist() == [[0.25] * 4] * 7


def test_the_learning_curve_needs_five_users_at_a_point() -> None:
    users = tuple(user(f"u{number}", 20, 0, 0) for number in range(5))
    for one in users:
        one.curve, one.curve_trunk = np.ones(120, np.int32), np.zeros(120, np.int32)

    points = PersonalisationResult(users).curve()

    assert [(point.words, point.blend, point.trunk, point.users) for point in points] == [
        (50, 1.0, 0.0, 5),
        (100, 1.0, 0.0, 5),
    ]
    assert PersonalisationResult(users[:4]).curve() == []


def test_the_report_shows_every_arm_and_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(FOUND, Console(width=200), title="four users")
    whole = capsys.readouterr().out
    print_summary(FOUND, Console(width=80))
    short = capsys.readouterr().out

    for heading in ("global", "blend, ungated", "gated, frozen", "gated, learning on", "+10.0 %"):
        assert heading in whole
        assert heading in short
    assert "gate open for 75 % of 4 users; hurt with evidence 25.0 %" in whole
    assert "kB stored" in whole
