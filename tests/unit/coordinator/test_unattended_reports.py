"""Deltas that wait for their flush after their phones were answered: each byte of them is counted."""

import pytest
from tests.unit.coordinator.test_full_round import cohort, send
from tests.unit.coordinator.town import Town, constant, report

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.protocol.messages import Report
from keyflock_server.protocol.problems import ProblemCode, Refused

pytestmark = pytest.mark.fault("D15")


def size_bytes(*of: AssignmentClaims) -> int:
    """What these devices' deltas weigh."""
    return sum(len(report(constant(1.0), of=one).delta) for one in of)


async def test_a_report_whose_phone_was_told_to_wait_is_counted_until_its_flush(town: Town) -> None:
    await town.task(round="goal = 8")
    claims = await cohort(town, 4)

    waiting = [await send(town, one, 1.0) for one in claims[:3]]
    before_flush = town.coordinator.unattended_bytes()
    await send(town, claims[3], 1.0)

    assert waiting == [ProblemCode.REPORT_PENDING] * 3
    assert before_flush == size_bytes(*claims[:3])
    assert town.coordinator.unattended_bytes() == 0


async def test_a_report_that_is_sent_again_is_kept_and_counted_once(town: Town) -> None:
    await town.task(round="goal = 8")
    (claims,) = await cohort(town, 1)

    for _ in range(3):
        await send(town, claims, 1.0)

    assert town.coordinator.unattended_bytes() == size_bytes(claims)


async def test_a_report_that_is_refused_is_not_kept(town: Town) -> None:
    await town.task(round="goal = 8")
    (claims,) = await cohort(town, 1)

    with pytest.raises(Refused) as refused:
        await town.coordinator.report(claims, Report(delta=b"no delta at all", examples=1))

    assert refused.value.code is ProblemCode.MALFORMED_DELTA
    assert town.coordinator.unattended_bytes() == 0


async def test_a_round_that_ends_lets_go_of_what_waited_in_it(town: Town) -> None:
    await town.task(round="goal = 8")
    (claims,) = await cohort(town, 1)
    await send(town, claims, 1.0)

    await town.coordinator.cancel_task(claims.task)
    await town.coordinator.tick()

    assert town.coordinator.unattended_bytes() == 0
