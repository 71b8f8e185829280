"""A check-in that is refused asks the store nothing, whatever the reason."""

from collections.abc import Awaitable, Callable
from typing import Any, get_args

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report

from keyflock_compression.spec import CodecName
from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.protocol.identifiers import TaskName
from keyflock_server.protocol.messages import (
    Capabilities,
    CheckIn,
    Refusal,
    RefusalReason,
)
from keyflock_server.protocol.operator.devices import QuarantineOrder
from keyflock_server.storage.errors import StorageUnavailable

T = TaskName("t")
FULL = "goal = 4\nover_selection = 0.0"
_REPOSITORIES = (
    "populations",
    "tasks",
    "rounds",
    "assignments",
    "verdicts",
    "devices",
    "revocations",
    "tombstones",
    "personal_models",
    "leases",
    "arrivals",
    "cluster",
    "retention",
)


class ClosedRepository:
    """A repository that answers no call."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the repository has
        raise StorageUnavailable(f"A check-in has called {name}.")


def message(**fields: Any) -> CheckIn:  # noqa: ANN401 - fields of the message
    can = Capabilities(codecs=get_args(CodecName))
    known: dict[str, Any] = {"app_build": 5, "locale": "en-US", "examples": 10} | fields
    return CheckIn(protocol=1, capabilities=can, **known)


async def visit(harness: CoordinatorHarness, device: DeviceIdentity) -> Refusal:
    answer = await harness.coordinator.check_ins.check_in(device, message())
    assert isinstance(answer, Refusal), answer
    return answer


async def no_task(harness: CoordinatorHarness) -> DeviceIdentity:
    return await harness.enrol()


async def paused(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task()
    await harness.coordinator.tasks.pause(T, audit=AUDIT)
    return await harness.enrol()


async def full(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task(round=FULL)
    for _ in range(4):
        await harness.assigned(await harness.enrol())
    return await harness.enrol()


async def not_open_yet(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task(round=f"{FULL}\nmax_rounds = 9")
    state = harness.coordinator.registry._states[T]
    state.open_round = None
    return await harness.enrol()


async def outside_the_cohort(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task(eligibility="cohort = 'tier == 3'")
    return await harness.enrol(tier=2)


async def exhausted(harness: CoordinatorHarness) -> DeviceIdentity:
    """Return a device whose first refusal has asked the store how often it took part."""
    await harness.task(
        round=f"{FULL}\nmin_flush_clients = 1\nunsafe_single_flush = true",
        eligibility="max_participations = 1\nmin_separation_s = 0.0",
    )
    devices = [await harness.enrol() for _ in range(4)]
    for one in devices:
        claims = await harness.assigned(one)
        await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
    await harness.coordinator.tick()
    harness.pass_time(200.0)
    assert (await visit(harness, devices[0])).reason is RefusalReason.NOT_ELIGIBLE
    harness.pass_time(200.0)
    return devices[0]


async def not_sampled(harness: CoordinatorHarness) -> DeviceIdentity:
    """Return a device of a large population that is not in the round's sample."""
    await harness.task(round=FULL, pacing="min_s = 10.0\nmax_s = 86400.0")
    devices = [await harness.enrol_proven() for _ in range(1_000)]
    harness.pass_time(600.0)
    await harness.coordinator.tick()
    for device in devices:
        answer = await harness.check_in(device)
        if isinstance(answer, Refusal) and answer.reason is RefusalReason.NOT_SAMPLED:
            harness.coordinator.check_ins._early_check_ins.forget(device.device)
            return device
    raise AssertionError("All were sampled.")


async def contributed(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task(
        round=f"{FULL}\nmin_flush_clients = 1\nunsafe_single_flush = true",
        eligibility="min_separation_s = 9000.0",
    )
    device = await harness.enrol()
    claims = await harness.assigned(device)
    await harness.coordinator.reports.report(claims, report(constant(1.0), of=claims))
    harness.coordinator.check_ins._early_check_ins.forget(device.device)
    return device


async def token_says_contributed(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task(eligibility="min_separation_s = 9e5")
    return await harness.enrol_proven()


async def quarantined(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task()
    device = await harness.enrol()
    await harness.coordinator.quarantines.quarantine(
        device.device, QuarantineOrder(reason="A test."), audit=AUDIT
    )
    return device


async def overloaded(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task()
    harness.load = 1.0
    return await harness.enrol_proven()


async def early(harness: CoordinatorHarness) -> DeviceIdentity:
    device = await not_sampled(harness)
    assert (await visit(harness, device)).reason is RefusalReason.NOT_SAMPLED
    harness.pass_time(1.0)
    return device


async def fits(harness: CoordinatorHarness) -> DeviceIdentity:
    await harness.task(eligibility="app_build_min = 5\nmin_examples = 10\nlocales = ['en']")
    return await harness.enrol()


Given = Callable[[CoordinatorHarness], Awaitable[DeviceIdentity]]
CASES: list[tuple[Given, dict[str, Any], RefusalReason]] = [
    (no_task, {}, RefusalReason.NO_ACTIVE_TASK),
    (paused, {}, RefusalReason.PAUSED),
    (full, {}, RefusalReason.ROUND_FULL),
    (not_open_yet, {}, RefusalReason.ROUND_FULL),
    (outside_the_cohort, {}, RefusalReason.NOT_ELIGIBLE),
    (exhausted, {}, RefusalReason.NOT_ELIGIBLE),
    (fits, {"examples": 9}, RefusalReason.NOT_ELIGIBLE),
    (fits, {"locale": "de-DE"}, RefusalReason.NOT_ELIGIBLE),
    (fits, {"upload_budget_bytes": 1}, RefusalReason.NOT_ELIGIBLE),
    (fits, {"app_build": 4}, RefusalReason.APP_TOO_OLD),
    (not_sampled, {}, RefusalReason.NOT_SAMPLED),
    (early, {}, RefusalReason.NOT_SAMPLED),
    (contributed, {}, RefusalReason.TOO_SOON),
    (token_says_contributed, {}, RefusalReason.TOO_SOON),
    (quarantined, {}, RefusalReason.QUARANTINED),
    (overloaded, {}, RefusalReason.OVERLOADED),
]


@pytest.mark.parametrize(
    ("given", "fields", "reason"), CASES, ids=[f"{one[0].__name__}-{one[2]}-{len(one[1])}" for one in CASES]
)
async def test_a_refusal_asks_the_store_nothing_and_waits_for_nothing(
    harness: CoordinatorHarness,
    monkeypatch: pytest.MonkeyPatch,
    given: Given,
    fields: dict[str, Any],
    reason: RefusalReason,
) -> None:
    device = await given(harness)
    with monkeypatch.context() as closed:
        for name in _REPOSITORIES:
            closed.setattr(harness.store, name, ClosedRepository())
        check_in = harness.coordinator.check_ins.check_in(device, message(**fields))

        # A coroutine that waits for something else gives it here, and does not return.
        with pytest.raises(StopIteration) as returned:
            check_in.send(None)

    assert isinstance(returned.value.value, Refusal)
    assert returned.value.value.reason is reason


def test_every_reason_that_a_check_in_gives_is_tried() -> None:
    # No part of the server gives budget_exhausted: it is reserved for privacy budgets.
    assert {reason for _, _, reason in CASES} == set(RefusalReason) - {RefusalReason.BUDGET_EXHAUSTED}
