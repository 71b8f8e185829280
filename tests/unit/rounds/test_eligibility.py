"""Each rule refuses what it is there to refuse, and says which rule it was."""

from datetime import UTC, datetime, timedelta

import pytest

from keyflock_server.protocol.messages import CheckIn, Conditions, RefusalReason
from keyflock_server.rounds.eligibility import admits, ineligibility, participation_limit_reached
from keyflock_server.rounds.task import Eligibility

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FIT = CheckIn(protocol=1, app_build=10, locale="en-GB", examples=20)


def check_in(**says: bool | float) -> CheckIn:
    conditions = Conditions(**says)  # type: ignore[arg-type]  # field by field in the tests below
    return CheckIn(protocol=1, app_build=10, locale="en-GB", examples=20, conditions=conditions)


@pytest.mark.parametrize(
    ("rules", "message", "reason"),
    [
        (Eligibility(app_build_min=11), FIT, RefusalReason.APP_TOO_OLD),
        (Eligibility(app_build_max=9), FIT, RefusalReason.NOT_ELIGIBLE),
        (Eligibility(locales=("de", "en-US")), FIT, RefusalReason.NOT_ELIGIBLE),
        (Eligibility(min_examples=21), FIT, RefusalReason.NOT_ELIGIBLE),
        (Eligibility(require_idle=True), check_in(is_idle=False), RefusalReason.NOT_ELIGIBLE),
        (Eligibility(require_charging=True), check_in(is_charging=False), RefusalReason.NOT_ELIGIBLE),
        (Eligibility(require_unmetered=True), check_in(is_unmetered=False), RefusalReason.NOT_ELIGIBLE),
        (Eligibility(min_battery_ratio=0.5), check_in(battery_ratio=0.4), RefusalReason.NOT_ELIGIBLE),
        (Eligibility(max_thermal_status=1), check_in(thermal_status=2), RefusalReason.NOT_ELIGIBLE),
    ],
)
def test_a_broken_rule_refuses(rules: Eligibility, message: CheckIn, reason: RefusalReason) -> None:
    finding = ineligibility(rules, message, None, NOW)

    assert finding is not None
    assert finding.reason is reason
    assert finding.detail.endswith(".")


def test_a_phone_that_keeps_all_rules_is_eligible() -> None:
    rules = Eligibility(
        min_examples=20,
        app_build_min=10,
        app_build_max=10,
        locales=("en",),
        require_idle=True,
        require_charging=True,
        require_unmetered=True,
        min_battery_ratio=1.0,
        max_thermal_status=0,
    )

    assert ineligibility(rules, FIT, None, NOW) is None


def test_the_separation_counts_from_the_last_contribution() -> None:
    rules = Eligibility(min_separation_s=100.0)

    soon = ineligibility(rules, FIT, NOW - timedelta(seconds=40), NOW)

    assert soon is not None
    assert (soon.reason, soon.wait_s) == (RefusalReason.TOO_SOON, 60.0)
    assert ineligibility(rules, FIT, NOW - timedelta(seconds=100), NOW) is None


def test_a_language_admits_its_regions_and_no_language_that_begins_alike() -> None:
    assert admits(("en",), "en_US")
    assert admits(("EN-us",), "en-US")
    assert not admits(("en-US",), "en")
    assert not admits(("e",), "en")
    assert admits((), "tlh")


def test_a_moment_too_soon_is_too_soon() -> None:
    rules = Eligibility(min_separation_s=100.0)

    soon = ineligibility(rules, FIT, NOW - timedelta(seconds=99.75), NOW)

    assert soon is not None
    assert (soon.reason, soon.wait_s) == (RefusalReason.TOO_SOON, 0.25)


def test_a_device_takes_part_as_often_as_it_may_and_no_oftener() -> None:
    rules = Eligibility(max_participations=3)

    assert participation_limit_reached(rules, 2) is None
    reached = participation_limit_reached(rules, 3)
    assert reached is not None
    assert reached.reason is RefusalReason.NOT_ELIGIBLE
    assert participation_limit_reached(Eligibility(), 10**9) is None
