"""Rejected reports keep a device out, for how long the policy says."""

from datetime import UTC, datetime, timedelta

import pytest

from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.quarantine import (
    Quarantine,
    QuarantinedBy,
    Violation,
    after_violation,
    is_systemic,
    quarantined_by_operator,
    stored_quarantine,
)
from keyflock_server.rounds.task import QuarantinePolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = QuarantinePolicy(refusals=3, within_s=7 * 86_400.0, duration_s=3 * 86_400.0, growth=2.0)


def after_violations(
    *days: float, before: Quarantine | None = None, policy: QuarantinePolicy = POLICY
) -> Quarantine:
    """Return the quarantine after one violation on each of these days, each in a round of its own."""
    quarantine = before or Quarantine()
    for day in days:
        violation = Violation(at=NOW + day * DAY, round=RoundId(f"t-{day}"), verdict="too_long")
        quarantine = after_violation(quarantine, violation, policy) or quarantine
    return quarantine


def test_the_third_refusal_within_a_week_keeps_a_device_out_for_three_days_and_says_why() -> None:
    quarantine = after_violations(0, 1, 6)

    assert quarantine.last is not None
    assert quarantine.last.until == NOW + 9 * DAY
    assert quarantine.last.by is QuarantinedBy.POLICY
    assert quarantine.last.reason == (
        "Refused reports in 3 of its rounds within 7 days: too_long, too_long, too_long."
    )


def test_refusals_further_apart_are_forgiven() -> None:
    assert after_violations(0, 4, 8, 12, 16).last is None


def test_one_round_is_one_violation_however_often_the_phone_tries() -> None:
    violation = Violation(at=NOW, round=RoundId("t-1"), verdict="malformed")
    quarantine = after_violation(Quarantine(), violation, POLICY)
    assert quarantine is not None

    assert after_violation(quarantine, violation, POLICY) is None


def test_each_quarantine_is_longer_than_the_last_up_to_the_longest() -> None:
    policy = QuarantinePolicy(refusals=1, duration_s=86_400.0, growth=3.0, max_duration_s=5 * 86_400.0)
    quarantine, day, lengths = Quarantine(), 0.0, []

    for _ in range(4):
        quarantine = after_violations(day, before=quarantine, policy=policy)
        assert quarantine.last is not None
        lengths.append((quarantine.last.until - quarantine.last.since) / DAY)
        day += 5.5

    assert lengths == [1.0, 3.0, 5.0, 5.0]


def test_a_quarantine_long_past_does_not_lengthen_the_next() -> None:
    policy = QuarantinePolicy(refusals=1, duration_s=86_400.0, max_duration_s=5 * 86_400.0)

    quarantine = after_violations(0, 100, policy=policy)

    assert quarantine.last is not None
    assert quarantine.last.until == NOW + 101 * DAY
    assert quarantine.quarantines == 1


def test_a_quarantined_device_gets_no_more_violations() -> None:
    before = after_violations(0, 1, 2)
    violation = Violation(at=NOW + 3 * DAY, round=RoundId("late"), verdict="malformed")

    assert after_violation(before, violation, POLICY) is None


def test_a_policy_of_nothing_holds_nothing_against_anyone() -> None:
    assert after_violations(0, 1, 2, 3, policy=QuarantinePolicy(refusals=0)) == Quarantine()


def test_an_operators_quarantine_is_theirs() -> None:
    quarantine = quarantined_by_operator(after_violations(0), "A test phone.", NOW, 86_400.0)

    assert quarantine.last is not None
    assert (quarantine.last.by, quarantine.last.reason) == (QuarantinedBy.OPERATOR, "A test phone.")
    assert quarantine.is_quarantined(NOW)
    assert not quarantine.is_quarantined(NOW + DAY)


@pytest.mark.parametrize(
    ("accepted", "refused", "expected"),
    [(0, 3, False), (0, 4, True), (4, 4, False), (4, 5, True), (100, 100, False)],
)
def test_what_befalls_most_of_a_round_is_not_the_devices(
    accepted: int, refused: int, *, expected: bool
) -> None:
    assert is_systemic(accepted, refused) is expected


def test_a_quarantine_comes_back_as_it_was_stored() -> None:
    quarantine = after_violations(0, 1, 6, 20)

    assert stored_quarantine(quarantine.to_json()) == quarantine
    assert stored_quarantine(None) == Quarantine()
