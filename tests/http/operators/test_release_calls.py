"""Releases over the operators' calls, with the services that answer them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.http.operators.real_operators import RealOperators
from tests.unit.coordinator.evaluate_task import publish_version
from tests.unit.coordinator.harness import POPULATION, CoordinatorHarness
from tests.unit.coordinator.releasing import evaluate

from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.releases import (
    HOLD_RELEASE,
    PROMOTE_RELEASE,
    RELEASE,
    RELEASE_GATE,
    RELEASE_HISTORY,
    RELEASE_POLICY,
    RELEASES,
    ROLL_BACK_RELEASE,
    SET_RELEASE_POLICY,
    START_RELEASE,
)
from keyflock_server.releases.stages import bucket_of

MANUAL = {"promotion": "manual", "stages": [10, 50, 100]}


@pytest.fixture
async def harness() -> AsyncIterator[CoordinatorHarness]:
    harness = CoordinatorHarness()
    await harness.coordinator.start()
    await harness.create_population()
    await publish_version(harness)
    yield harness
    await harness.coordinator.stop()


@pytest.fixture
def operators(harness: CoordinatorHarness) -> RealOperators:
    """Version 0 is served, 1 is the newest, and operators promote."""
    return RealOperators(harness)


def shown(view: dict[str, Any]) -> tuple[str, int, int | None, int]:
    return view["phase"], view["version"], view["candidate"], view["percent"]


async def test_a_candidate_is_started_widened_held_and_rolled_back(operators: RealOperators) -> None:
    started = await operators.call(START_RELEASE, {"candidate": 1, "percent": 10}, role="operator")
    widened = await operators.call(START_RELEASE, {"percent": 50}, role="operator")
    held = await operators.call(HOLD_RELEASE, {}, role="operator")
    narrowed = await operators.call(START_RELEASE, {"percent": 10}, role="operator")
    taken_back = await operators.call(ROLL_BACK_RELEASE, {}, role="operator")

    assert shown(started.body) == ("staged", 0, 1, 10)
    assert shown(widened.body) == ("staged", 0, 1, 50)
    assert shown(held.body) == ("held", 0, 1, 50)
    assert (narrowed.status, narrowed.code) == (409, "conflict")
    assert (taken_back.body["phase"], taken_back.body["version"]) == ("rolled_back", 0)
    assert taken_back.body["candidate"] is None
    history = (await operators.call(RELEASE_HISTORY, role="viewer")).body["items"]
    assert [step["action"] for step in history] == ["rolled_back", "held", "staged", "staged", "created"]
    assert {step["reason"] for step in history[:4]} == {"a test"}


async def test_the_history_comes_in_pages(operators: RealOperators) -> None:
    await operators.call(START_RELEASE, {"candidate": 1, "percent": 10})
    await operators.call(ROLL_BACK_RELEASE, {})

    first = (await operators.call(RELEASE_HISTORY, query={"limit": 2})).body
    rest = (await operators.call(RELEASE_HISTORY, query={"limit": 2, "after": first["next"]})).body

    assert [step["sequence"] for step in first["items"] + rest["items"]] == [2, 1, 0]
    assert rest["next"] is None


async def test_what_the_gate_did_not_pass_takes_an_admins_force(operators: RealOperators) -> None:
    unforced = await operators.call(PROMOTE_RELEASE, {"version": 1})
    too_weak = await operators.call(PROMOTE_RELEASE, {"version": 1, "is_forced": True}, role="operator")
    before = await operators.call(RELEASE)
    forced = await operators.call(PROMOTE_RELEASE, {"version": 1, "is_forced": True})

    assert (unforced.status, unforced.code) == (409, "conflict")
    assert "no_data" in unforced.body["detail"]
    assert (too_weak.status, too_weak.code) == (403, "role_too_weak")
    assert shown(before.body)[:2] == ("idle", 0)
    assert (forced.status, forced.body["version"], forced.body["candidate"]) == (200, 1, None)
    back = await operators.call(ROLL_BACK_RELEASE, {})
    assert (back.body["version"], back.body["newest"]) == (0, 1)


async def test_what_the_gate_passed_an_operator_promotes_and_it_shows_on_what_it_rests(
    harness: CoordinatorHarness, operators: RealOperators
) -> None:
    nothing = await operators.call(RELEASE_GATE, role="viewer")
    evaluate(harness, 1, 0, mean=0.0)
    gate = await operators.call(RELEASE_GATE, role="viewer", query={"candidate": 1})

    promoted = await operators.call(PROMOTE_RELEASE, {"version": 1}, role="operator")

    assert (nothing.body["candidate"], nothing.body["verdict"]) == (1, "no_data")
    assert (gate.body["released"], gate.body["verdict"]) == (0, "pass")
    assert promoted.body["version"] == 1
    last = (await operators.call(RELEASE_HISTORY, query={"limit": 1})).body["items"][0]
    assert (last["action"], last["evidence"]["verdict"]) == ("promoted", "pass")


async def test_a_version_that_phones_find_worse_is_staged_by_force_alone(
    harness: CoordinatorHarness, operators: RealOperators
) -> None:
    evaluate(harness, 1, 0, mean=-0.05)

    refused = await operators.call(START_RELEASE, {"candidate": 1, "percent": 10}, role="operator")
    forced = await operators.call(START_RELEASE, {"candidate": 1, "percent": 10, "is_forced": True})

    assert (refused.status, refused.code) == (409, "conflict")
    assert shown(forced.body) == ("staged", 0, 1, 10)
    assert forced.body["gate"]["verdict"] == "fail"


async def test_a_policy_is_read_and_set_on_a_condition(operators: RealOperators) -> None:
    before = await operators.call(RELEASE_POLICY, role="viewer")
    too_weak = await operators.call(SET_RELEASE_POLICY, {"policy": MANUAL}, role="operator")
    stale = await operators.call(SET_RELEASE_POLICY, {"policy": MANUAL}, if_match='"99"')
    changed = await operators.call(SET_RELEASE_POLICY, {"policy": MANUAL}, if_match=before.etag)
    again = await operators.call(SET_RELEASE_POLICY, {"policy": MANUAL}, if_match=before.etag)

    assert (too_weak.status, stale.status, changed.status, again.status) == (403, 412, 200, 412)
    after = await operators.call(RELEASE_POLICY, role="viewer")
    assert (after.body, after.etag) == (changed.body, changed.etag)
    assert after.body["stages"] == [10, 50, 100]
    assert (await operators.call(RELEASE)).body["policy"] == after.body


async def test_a_device_is_shown_with_what_it_is_served(
    harness: CoordinatorHarness, operators: RealOperators
) -> None:
    device = (await harness.enrol()).device
    bucket = bucket_of(POPULATION, device)
    await operators.call(START_RELEASE, {"candidate": 1, "percent": min(bucket // 100 + 1, 99)})

    seen = await operators.call(RELEASE, role="viewer", query={"device": device})
    unknown = await operators.call(RELEASE, role="viewer", query={"device": "nobody"})

    assert seen.body["device"] == {"bucket": bucket, "version": 1 if bucket < 9_900 else 0}
    assert (unknown.status, unknown.code) == (404, "not_found")


async def test_all_releases_are_listed(operators: RealOperators) -> None:
    listed = await operators.call(RELEASES, role="viewer")

    assert [one["population"] for one in listed.body["items"]] == [POPULATION]


@pytest.mark.parametrize(
    ("call", "order", "status", "code"),
    [
        (START_RELEASE, {"candidate": 7}, 404, "model_unknown"),
        (START_RELEASE, {"candidate": 0, "percent": 10}, 409, "conflict"),
        (START_RELEASE, {"percent": 100}, 422, "malformed_body"),
        (START_RELEASE, {"reason": ""}, 422, "malformed_body"),
        (PROMOTE_RELEASE, {}, 409, "conflict"),
        (PROMOTE_RELEASE, {"version": 0}, 409, "conflict"),
        (PROMOTE_RELEASE, {"version": 7}, 404, "model_unknown"),
        (PROMOTE_RELEASE, {"version": -1}, 422, "malformed_body"),
        (HOLD_RELEASE, {}, 409, "conflict"),
        (ROLL_BACK_RELEASE, {}, 409, "conflict"),
        (ROLL_BACK_RELEASE, {"to": 1}, 409, "conflict"),
        (SET_RELEASE_POLICY, {"policy": {"stages": [50, 10, 100]}}, 422, "malformed_body"),
        (SET_RELEASE_POLICY, {"policy": {"margin": 1.0}}, 422, "malformed_body"),
    ],
)
async def test_a_wrong_order_changes_nothing(
    operators: RealOperators, call: AnyCall, order: dict[str, Any], status: int, code: str
) -> None:
    refused = await operators.call(call, order)

    assert (refused.status, refused.code) == (status, code)
    assert len((await operators.call(RELEASE_HISTORY)).body["items"]) == 1


async def test_a_population_that_is_not_there_is_told(operators: RealOperators) -> None:
    reads: tuple[AnyCall, ...] = (RELEASE, RELEASE_POLICY, RELEASE_GATE)
    answers = [await operators.call(call, population="xx") for call in reads]
    answers.append(await operators.call(HOLD_RELEASE, {}, population="xx"))

    assert {(one.status, one.code) for one in answers} == {(404, "population_unknown")}
