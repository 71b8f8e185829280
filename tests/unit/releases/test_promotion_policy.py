"""What a release policy may say, and that it comes back from the store."""

import msgspec
import pytest

from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.releases.policies import policy_from_json, policy_to_json, rule_of, stage_after


def test_without_a_stored_policy_every_published_version_is_released_at_once() -> None:
    assert policy_from_json(None).promotion is Promotion.AUTOMATIC


def test_a_policy_comes_back_from_the_store_as_it_was() -> None:
    policy = PromotionPolicy(promotion=Promotion.GATE, stages=(5, 100), min_stage_s=60.0, is_dry_run=True)

    assert policy_from_json(policy_to_json(policy)) == policy


@pytest.mark.parametrize("stages", [[10, 1, 100], [10, 10, 100], [10, 50], [], [0, 100], [100, 101]])
def test_stages_that_do_not_widen_up_to_everybody_are_refused(stages: list[int]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"stages": stages}, PromotionPolicy)


@pytest.mark.parametrize(
    "unsound",
    [
        {"confidence": 1.0},
        {"confidence": 0.4},
        {"margin_points": 0.0},
        {"min_users": 29},
        {"marginpoints": 1},
    ],
)
def test_a_policy_under_which_a_gate_means_nothing_is_refused(unsound: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(unsound, PromotionPolicy)


def test_the_stage_after_the_last_is_everybody() -> None:
    policy = PromotionPolicy()

    assert [stage_after(policy, percent) for percent in (0, 1, 5, 10, 50, 99)] == [1, 10, 10, 50, 100, 100]


def test_the_margin_is_in_points_for_operators_and_a_share_in_the_test() -> None:
    assert rule_of(PromotionPolicy(margin_points=0.5)).margin == pytest.approx(0.005)
