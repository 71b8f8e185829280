"""Operators' steps of a release: what is refused without force, and that each is in history and audit log."""

from typing import Any

import pytest
from tests.contract.audits import verified
from tests.unit.coordinator.diverging_task import play
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness
from tests.unit.coordinator.releasing import evaluate, newest, set_policy, steps

from keyflock_server.audit.context import AuditContext
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion
from keyflock_server.protocol.operator.promotion_policy import Promotion, PromotionPolicy
from keyflock_server.protocol.operator.releases import (
    DeviceRelease,
    PolicyOrder,
    PromoteOrder,
    ReleaseRollbackOrder,
    ReleaseView,
    StartOrder,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.releases.stages import bucket_of

BY_HAND = PromotionPolicy(promotion=Promotion.MANUAL)


def by(harness: CoordinatorHarness, role: str = "operator") -> AuditContext:
    return AuditContext(operator="ann", role=role, reason="it is time", action="release.test", at=harness.now)


async def start(harness: CoordinatorHarness, role: str = "operator", **order: Any) -> ReleaseView:  # noqa: ANN401
    asked = StartOrder(reason="it is time", **order)
    return await harness.coordinator.releases.start(POPULATION, asked, audit=by(harness, role))


async def promote(harness: CoordinatorHarness, role: str = "operator", **order: Any) -> ReleaseView:  # noqa: ANN401
    asked = PromoteOrder(reason="it is time", **order)
    return await harness.coordinator.releases.promote(POPULATION, asked, audit=by(harness, role))


async def roll_back(harness: CoordinatorHarness, to: int | None = None) -> ReleaseView:
    asked = ReleaseRollbackOrder(to=None if to is None else ModelVersion(to), reason="it got worse")
    return await harness.coordinator.releases.roll_back(POPULATION, asked, audit=by(harness))


@pytest.fixture
async def site(harness: CoordinatorHarness) -> CoordinatorHarness:
    """Version 0 is released, 1 and 2 are there, and operators promote."""
    await harness.task()
    await set_policy(harness, BY_HAND)
    await play(harness)
    await play(harness)
    return harness


async def test_a_candidate_is_staged_widened_held_and_taken_back_by_hand(site: CoordinatorHarness) -> None:
    await start(site)
    await start(site, percent=25)
    held = await site.coordinator.releases.hold(POPULATION, audit=by(site))
    goes_on = await start(site)
    back = await roll_back(site)

    assert (held.phase, held.candidate, held.percent) == ("held", 2, 25)
    assert held.gate is not None
    assert (held.gate.verdict, back.gate) == ("no_data", None)
    assert (goes_on.phase, goes_on.candidate, goes_on.percent) == ("staged", 2, 25)
    assert (back.phase, back.version, back.candidate, back.revision) == ("rolled_back", 0, None, 5)
    assert await steps(site) == [
        ("created", 0, None, 100, "ann"),
        ("staged", 0, 2, 1, "ann"),
        ("staged", 0, 2, 25, "ann"),
        ("held", 0, 2, 25, "ann"),
        ("staged", 0, 2, 25, "ann"),
        ("rolled_back", 0, None, 100, "ann"),
    ]
    assert await verified(site.store) is None
    newest_entry = (await site.store.audit.ascending(0, 100))[-1]
    assert (newest_entry.operator, newest_entry.subject_kind) == ("ann", "release")


async def test_a_stage_does_not_narrow(site: CoordinatorHarness) -> None:
    await start(site, percent=25)

    with pytest.raises(ApiError, match="only widen") as refused:
        await start(site, percent=24)

    assert refused.value.code is ProblemCode.CONFLICT


@pytest.mark.parametrize("mean", [None, -0.004, -0.06])
async def test_what_the_gate_did_not_pass_is_promoted_by_an_admins_force_alone(
    site: CoordinatorHarness, mean: float | None
) -> None:
    if mean is not None:
        evaluate(site, 2, 0, mean=mean)

    with pytest.raises(ApiError, match="the gate says") as refused:
        await promote(site, "admin", version=2)
    with pytest.raises(ApiError, match="needs the role admin") as too_weak:
        await promote(site, version=2, is_forced=True)
    forced = await promote(site, "admin", version=2, is_forced=True)

    assert refused.value.code is ProblemCode.CONFLICT
    assert too_weak.value.code is ProblemCode.ROLE_TOO_WEAK
    assert (forced.phase, forced.version) == ("promoted", 2)
    assert (await newest(site)).evidence_json is not None


async def test_what_the_gate_passed_an_operator_promotes(site: CoordinatorHarness) -> None:
    evaluate(site, 2, 0, mean=0.0)

    assert (await promote(site, version=2)).version == 2


async def test_a_version_that_phones_find_worse_is_not_staged_without_force(site: CoordinatorHarness) -> None:
    evaluate(site, 2, 0, mean=-0.06)
    site.pass_time(60.0)

    with pytest.raises(ApiError, match="is not staged"):
        await start(site)
    assert (await start(site, percent=0)).percent == 0  # served to nobody
    assert (await start(site, "admin", percent=1, is_forced=True)).percent == 1
    await site.coordinator.tick()

    # The verdict that the admin overruled does nothing until there is another one.
    assert (await newest(site)).action == "staged"
    site.pass_time(60.0)
    evaluate(site, 2, 0, mean=-0.06, phones=1_000)
    await site.coordinator.tick()
    assert ((await newest(site)).action, (await newest(site)).operator) == ("rolled_back", "gate")


async def test_rolling_back_without_a_candidate_serves_the_version_before_and_again_the_one_before_that(
    site: CoordinatorHarness,
) -> None:
    await promote(site, "admin", version=1, is_forced=True)
    await promote(site, "admin", version=2, is_forced=True)

    assert (await roll_back(site)).version == 1
    assert (await roll_back(site)).version == 0
    with pytest.raises(ApiError, match="No version was served to everybody before"):
        await roll_back(site)


async def test_only_what_was_served_before_can_be_rolled_back_to(site: CoordinatorHarness) -> None:
    await promote(site, "admin", version=2, is_forced=True)

    with pytest.raises(ApiError, match="Version 1 is none that"):
        await roll_back(site, to=1)
    assert (await roll_back(site, to=0)).version == 0


async def test_after_an_operators_roll_back_the_policy_releases_nothing_by_itself(
    site: CoordinatorHarness,
) -> None:
    await promote(site, "admin", version=2, is_forced=True)
    await set_policy(site, PromotionPolicy())
    await roll_back(site)

    await play(site)

    assert (await newest(site)).version == 0
    await promote(site, version=3)
    assert (await newest(site)).version == 3


async def test_a_policy_is_set_with_a_reason_and_applied_at_the_next_pass(site: CoordinatorHarness) -> None:
    order = PolicyOrder(policy=PromotionPolicy(), reason="no gate yet")

    await site.coordinator.releases.set_policy(POPULATION, order, audit=by(site, "admin"))
    await site.coordinator.tick()

    assert (await newest(site)).version == 2
    entries = [entry.action for entry in await site.store.audit.ascending(0, 100)]
    assert entries[-2:] == ["release.test", "release.promoted"]
    assert (await site.coordinator.releases.release(POPULATION)).policy == PromotionPolicy()


async def test_asking_the_gate_changes_nothing_and_shows_its_interval(site: CoordinatorHarness) -> None:
    before = await steps(site)
    assert (await site.coordinator.releases.gate(POPULATION, None)).verdict == "no_data"
    evaluate(site, 2, 0, mean=-0.004)

    view = await site.coordinator.releases.gate(POPULATION, 2)

    assert (view.candidate, view.released, view.verdict) == (2, 0, "inconclusive")
    (finding,) = view.findings
    assert finding["test"]["looks"][0]["users"] == 600
    assert finding["test"]["users_needed"] > 600
    assert await steps(site) == before


async def test_the_history_comes_in_pages_newest_first(site: CoordinatorHarness) -> None:
    await start(site)
    await roll_back(site)
    service = site.coordinator.releases

    first, following = await service.history(POPULATION, None, 2)
    rest, end = await service.history(POPULATION, following, 2)

    assert [step.sequence for step in (*first, *rest)] == [2, 1, 0]
    assert (following, end) == (1, None)
    views, more = await service.page(None, 10)
    assert [(view.population, view.version) for view in views] == [(POPULATION, 0)]
    assert more is None


async def test_a_device_is_shown_with_its_bucket_and_the_version_that_it_is_served(
    site: CoordinatorHarness,
) -> None:
    device = (await site.enrol()).device
    bucket = bucket_of(POPULATION, device)
    percent = bucket // 100 + 1
    service = site.coordinator.releases

    for stage, version in ((percent - 1, 0), (percent, 2)):
        await start(site, percent=stage)
        shown = await service.release(POPULATION, device)
        assert shown.device == DeviceRelease(bucket=bucket, version=version)
    with pytest.raises(ApiError, match="No such device"):
        await service.release(POPULATION, DeviceId("nobody"))
