"""What keyboards are served by the population's policy, step by step, and by which of two processes."""

from datetime import timedelta

import pytest
from tests.contract.audits import verified
from tests.unit.coordinator.diverging_task import play
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness
from tests.unit.coordinator.releasing import evaluate, newest, set_policy, steps
from tests.unit.coordinator.test_rollback import roll_back

from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.releases.stages import bucket_of

GATE = PromotionPolicy(promotion=Promotion.GATE)
DAY_S = 86_400.0


async def played(harness: CoordinatorHarness, policy: PromotionPolicy | None = None, rounds: int = 1) -> None:
    """Make some versions under a policy."""
    await harness.task()
    if policy is not None:
        await set_policy(harness, policy)
    for _ in range(rounds):
        await play(harness)


async def served(harness: CoordinatorHarness, device: DeviceId | None = None) -> int:
    return (await harness.coordinator.downlink.release(POPULATION, device)).model_version


async def test_without_a_policy_a_version_is_served_as_soon_as_it_is_published(
    harness: CoordinatorHarness,
) -> None:
    await played(harness, rounds=2)

    assert await served(harness) == 2
    assert await steps(harness) == [
        ("created", 0, None, 100, "ann"),
        ("promoted", 1, None, 100, "policy"),
        ("promoted", 2, None, 100, "policy"),
    ]
    assert await verified(harness.store) is None


async def test_by_hand_nothing_is_served_that_no_operator_has_promoted(harness: CoordinatorHarness) -> None:
    await played(harness, PromotionPolicy(promotion=Promotion.MANUAL), rounds=2)

    assert await served(harness) == 0
    assert (await harness.coordinator.models.population(POPULATION)).latest_version == 2


async def test_a_passing_gate_takes_a_candidate_through_its_stages_to_everybody(
    harness: CoordinatorHarness,
) -> None:
    await played(harness, GATE)
    assert (await newest(harness)).percent == 0
    await harness.coordinator.tick()  # nobody has evaluated it: no data moves nothing
    evaluate(harness, 1, 0, mean=0.0)

    for _ in range(4):
        await harness.coordinator.tick()
        await harness.coordinator.tick()  # the stage has just begun
        harness.pass_time(DAY_S)

    assert await steps(harness) == [
        ("created", 0, None, 100, "ann"),
        ("staged", 0, 1, 0, "policy"),
        ("staged", 0, 1, 1, "policy"),
        ("staged", 0, 1, 10, "policy"),
        ("staged", 0, 1, 50, "policy"),
        ("promoted", 1, None, 100, "policy"),
    ]
    assert "It is not worse by 0.5 points" in (await newest(harness)).reason
    assert await verified(harness.store) is None


async def test_a_candidate_is_served_to_the_devices_of_its_stage_alone(harness: CoordinatorHarness) -> None:
    await played(harness, GATE)
    evaluate(harness, 1, 0, mean=0.0)
    for _ in range(3):
        await harness.coordinator.tick()
        harness.pass_time(DAY_S)
    devices = [(await harness.enrol()).device for _ in range(30)]

    for device in devices:
        is_first = bucket_of(POPULATION, device) < 5_000
        assert await served(harness, device) == (1 if is_first else 0)
    assert await served(harness) == 0


@pytest.mark.parametrize("percent", [0, 10])
async def test_a_candidate_that_phones_find_worse_is_taken_back_by_the_gate(
    harness: CoordinatorHarness, percent: int
) -> None:
    await played(harness, GATE)
    if percent:
        evaluate(harness, 1, 0, mean=0.0)
        await harness.coordinator.tick()
        harness.pass_time(DAY_S)
        await harness.coordinator.tick()
    assert (await newest(harness)).percent == percent
    harness.pass_time(60.0)
    evaluate(harness, 1, 0, mean=-0.06, phones=2_000)

    await harness.coordinator.tick()
    await harness.coordinator.tick()

    last = await newest(harness)
    assert (last.action, last.version, last.candidate, last.operator) == ("rolled_back", 0, None, "gate")
    assert last.evidence_json is not None
    assert '"verdict":"fail"' in last.evidence_json


async def test_a_failed_candidate_is_not_tried_again_and_the_next_version_is(
    harness: CoordinatorHarness,
) -> None:
    await played(harness, GATE)
    evaluate(harness, 1, 0, mean=-0.06)
    await harness.coordinator.tick()
    await harness.coordinator.tick()
    assert (await newest(harness)).action == "rolled_back"

    await play(harness)

    assert (await newest(harness)).candidate == 2


async def test_an_open_verdict_holds_the_stage_until_enough_phones_have_evaluated(
    harness: CoordinatorHarness,
) -> None:
    await played(harness, GATE)
    evaluate(harness, 1, 0, mean=-0.004)
    for _ in range(5):
        await harness.coordinator.tick()
        harness.pass_time(30 * DAY_S)
    held = await newest(harness)
    assert (held.action, held.percent, held.operator) == ("inconclusive", 0, "gate")
    assert "phones are needed" in held.reason

    evaluate(harness, 1, 0, mean=0.004, phones=3_000)
    await harness.coordinator.tick()

    assert ((await newest(harness)).action, (await newest(harness)).percent) == ("staged", 1)


async def test_the_policy_may_leave_a_failed_candidate_to_an_operator(harness: CoordinatorHarness) -> None:
    await played(harness, PromotionPolicy(promotion=Promotion.GATE, rolls_back_on_fail=False))
    evaluate(harness, 1, 0, mean=-0.06)

    for _ in range(3):
        await harness.coordinator.tick()
        harness.pass_time(DAY_S)

    assert [step[0] for step in await steps(harness)] == ["created", "staged", "held"]


async def test_a_dry_run_moves_nothing(harness: CoordinatorHarness) -> None:
    await played(harness, PromotionPolicy(promotion=Promotion.GATE, is_dry_run=True))
    evaluate(harness, 1, 0, mean=0.0)

    await harness.coordinator.tick()

    assert [step[0] for step in await steps(harness)] == ["created"]


async def test_a_rollback_of_training_replaces_what_is_served_at_once(harness: CoordinatorHarness) -> None:
    await played(harness, rounds=3)
    await set_policy(harness, PromotionPolicy(promotion=Promotion.MANUAL))

    await roll_back(harness, 1)

    assert await served(harness) == 1
    assert (await steps(harness))[-1][:2] == ("withdrawn", 1)


async def test_of_two_processes_that_both_lead_one_takes_each_step(harness: CoordinatorHarness) -> None:
    await played(harness, GATE)
    other = harness.another_coordinator()
    await other.start()
    evaluate(harness, 1, 0, mean=0.0)

    for _ in range(4):
        await harness.coordinator.tick()
        await other.tick()
        harness.now += timedelta(seconds=DAY_S)

    assert [step[3] for step in await steps(harness)] == [100, 0, 1, 10, 50, 100]
    assert await verified(harness.store) is None


async def test_a_phone_that_two_processes_answer_in_turn_goes_to_no_version_and_back(
    harness: CoordinatorHarness,
) -> None:
    await played(harness, PromotionPolicy(promotion=Promotion.MANUAL))
    other = harness.another_coordinator()
    await other.start()
    device = (await harness.enrol()).device
    before = (await other.downlink.release(POPULATION, device)).model_version

    await set_policy(harness, PromotionPolicy(promotion=Promotion.AUTOMATIC))
    await harness.coordinator.tick()
    after = [await served(harness, device), (await other.downlink.release(POPULATION, device)).model_version]

    assert (before, after) == (0, [1, 1])
    await other.stop()
