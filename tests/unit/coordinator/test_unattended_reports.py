"""Deltas that wait for their flush after their phones were answered: each byte of them is counted."""

import pytest
from tests.contract.audits import AUDIT
from tests.unit.coordinator.harness import CoordinatorHarness, constant, report
from tests.unit.coordinator.test_full_round import cohort, send

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Report
from keyflock_server.protocol.problems import ApiError, ProblemCode

pytestmark = pytest.mark.fault("D15")


def size_bytes(*of: AssignmentClaims) -> int:
    """Return the size of these devices' deltas."""
    return sum(len(report(constant(1.0), of=one).delta) for one in of)


async def test_a_report_whose_phone_was_told_to_wait_is_counted_until_its_flush(
    harness: CoordinatorHarness,
) -> None:
    await harness.task(round="goal = 8")
    claims = await cohort(harness, 4)

    waiting = [await send(harness, one, 1.0) for one in claims[:3]]
    before_flush = harness.coordinator.reports.unattended_bytes()
    await send(harness, claims[3], 1.0)

    assert waiting == [ProblemCode.REPORT_PENDING] * 3
    assert before_flush == size_bytes(*claims[:3])
    assert harness.coordinator.reports.unattended_bytes() == 0


async def test_a_report_that_is_sent_again_is_kept_and_counted_once(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    (claims,) = await cohort(harness, 1)

    for _ in range(3):
        await send(harness, claims, 1.0)

    assert harness.coordinator.reports.unattended_bytes() == size_bytes(claims)


async def test_a_report_that_is_refused_is_not_kept(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    (claims,) = await cohort(harness, 1)

    with pytest.raises(ApiError) as refused:
        await harness.coordinator.reports.report(claims, Report(delta=b"no delta at all", examples=1))

    assert refused.value.code is ProblemCode.MALFORMED_DELTA
    assert harness.coordinator.reports.unattended_bytes() == 0


async def test_a_round_that_ends_lets_go_of_what_waited_in_it(harness: CoordinatorHarness) -> None:
    await harness.task(round="goal = 8")
    (claims,) = await cohort(harness, 1)
    await send(harness, claims, 1.0)

    await harness.coordinator.tasks.cancel(claims.task, audit=AUDIT)
    await harness.coordinator.tick()

    assert harness.coordinator.reports.unattended_bytes() == 0
