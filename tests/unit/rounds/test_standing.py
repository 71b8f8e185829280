"""When refused reports keep a device out, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest

from keyflock_server.protocol.identifiers import RoundId
from keyflock_server.rounds.standing import (
    QuarantinedBy,
    Standing,
    Strike,
    after_refusal,
    by_operator,
    is_systemic,
    stored_standing,
)
from keyflock_server.rounds.task import QuarantinePolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
POLICY = QuarantinePolicy(refusals=3, within_s=7 * 86_400.0, duration_s=3 * 86_400.0, growth=2.0)


def struck(*days: float, before: Standing | None = None, policy: QuarantinePolicy = POLICY) -> Standing:
    """After one refusal on each of these days, each in a round of its own."""
    standing = before or Standing()
    for day in days:
        strike = Strike(at=NOW + day * DAY, round=RoundId(f"t-{day}"), verdict="too_long")
        standing = after_refusal(standing, strike, policy) or standing
    return standing


def test_the_third_refusal_within_a_week_keeps_a_device_out_for_three_days_and_says_why() -> None:
    standing = struck(0, 1, 6)

    assert standing.quarantine is not None
    assert standing.quarantine.until == NOW + 9 * DAY
    assert standing.quarantine.by is QuarantinedBy.POLICY
    assert standing.quarantine.reason == (
        "Refused reports in 3 of its rounds within 7 days: too_long, too_long, too_long."
    )


def test_refusals_further_apart_are_forgiven() -> None:
    assert struck(0, 4, 8, 12, 16).quarantine is None


def test_one_round_strikes_once_however_often_the_phone_tries() -> None:
    strike = Strike(at=NOW, round=RoundId("t-1"), verdict="malformed")
    standing = after_refusal(Standing(), strike, POLICY)
    assert standing is not None

    assert after_refusal(standing, strike, POLICY) is None


def test_each_quarantine_is_longer_than_the_last_up_to_the_longest() -> None:
    policy = QuarantinePolicy(refusals=1, duration_s=86_400.0, growth=3.0, max_duration_s=5 * 86_400.0)
    standing, day, lengths = Standing(), 0.0, []

    for _ in range(4):
        standing = struck(day, before=standing, policy=policy)
        assert standing.quarantine is not None
        lengths.append((standing.quarantine.until - standing.quarantine.since) / DAY)
        day += 5.5

    assert lengths == [1.0, 3.0, 5.0, 5.0]


def test_a_quarantine_long_past_does_not_lengthen_the_next() -> None:
    policy = QuarantinePolicy(refusals=1, duration_s=86_400.0, max_duration_s=5 * 86_400.0)

    standing = struck(0, 100, policy=policy)

    assert standing.quarantine is not None
    assert standing.quarantine.until == NOW + 101 * DAY
    assert standing.quarantines == 1


def test_a_device_that_is_out_is_not_struck_again() -> None:
    before = struck(0, 1, 2)
    strike = Strike(at=NOW + 3 * DAY, round=RoundId("late"), verdict="malformed")

    assert after_refusal(before, strike, POLICY) is None


def test_a_policy_of_nothing_holds_nothing_against_anyone() -> None:
    assert struck(0, 1, 2, 3, policy=QuarantinePolicy(refusals=0)) == Standing()


def test_an_operators_quarantine_is_theirs() -> None:
    standing = by_operator(struck(0), "A test phone.", NOW, 86_400.0)

    assert standing.quarantine is not None
    assert (standing.quarantine.by, standing.quarantine.reason) == (QuarantinedBy.OPERATOR, "A test phone.")
    assert standing.is_quarantined(NOW)
    assert not standing.is_quarantined(NOW + DAY)


@pytest.mark.parametrize(
    ("accepted", "refused", "expected"),
    [(0, 3, False), (0, 4, True), (4, 4, False), (4, 5, True), (100, 100, False)],
)
def test_what_befalls_most_of_a_round_is_not_the_devices(
    accepted: int, refused: int, *, expected: bool
) -> None:
    assert is_systemic(accepted, refused) is expected


def test_a_standing_comes_back_as_it_was_stored() -> None:
    standing = struck(0, 1, 6, 20)

    assert stored_standing(standing.to_json()) == standing
    assert stored_standing(None) == Standing()
