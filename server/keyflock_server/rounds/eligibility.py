"""Whether a phone may take part now. The rules are the task's; the answers are never stored."""

from dataclasses import dataclass
from datetime import datetime

from keyflock_server.protocol.messages import CheckIn, DeviceRules, RefusalReason, TaskKind
from keyflock_server.rounds.cohort import DeviceAttributes, in_ranges, matches, parse_cohort
from keyflock_server.rounds.task import Eligibility


@dataclass(frozen=True, slots=True)
class Ineligible:
    """Which rule, in one sentence for the SDK's log."""

    reason: RefusalReason
    detail: str
    #: For ``too_soon``: when the device may come again.
    wait_s: float = 0.0


def ineligibility(
    rules: Eligibility,
    message: CheckIn,
    last_contributed_at: datetime | None,
    now: datetime,
    kind: TaskKind = TaskKind.TRAIN,
    *,
    tier: int = 0,
    tags: tuple[str, ...] = (),
) -> Ineligible | None:
    """The first rule that this check-in breaks, or None.

    Args:
        rules: The task's.
        message: What the phone says of itself.
        last_contributed_at: When a report of this device was last counted.
        now: This instant.
        kind: What the task wants.
        tier: Of the device, as it said at enrolment.
        tags: Of the device, as it said at enrolment.
    """
    if message.app_build < rules.app_build_min:
        return Ineligible(
            RefusalReason.APP_TOO_OLD, f"App build {message.app_build} is below {rules.app_build_min}."
        )
    if last_contributed_at is not None:
        wait_s = rules.min_separation_s - (now - last_contributed_at).total_seconds()
        if wait_s > 0.0:
            return Ineligible(RefusalReason.TOO_SOON, "This device has contributed recently.", wait_s)
    if kind not in message.capabilities.tasks:
        return Ineligible(RefusalReason.NOT_ELIGIBLE, f"This build of the SDK has no task kind {kind}.")
    unchecked = sorted(set(rules_asked(rules.device)) - set(message.capabilities.device_rules))
    if unchecked:
        return Ineligible(
            RefusalReason.NOT_ELIGIBLE, f"This build of the SDK does not check the rule {unchecked[0]}."
        )
    device = DeviceAttributes(message.app_build, message.locale, tier, tags)
    if rules.cohort and not matches(parse_cohort(rules.cohort), device):
        return Ineligible(RefusalReason.NOT_ELIGIBLE, "The device is not in the task's cohort.")
    detail = _unfit(rules, message)
    return Ineligible(RefusalReason.NOT_ELIGIBLE, detail) if detail else None


def has_taken_part_enough(rules: Eligibility, participations: int) -> Ineligible | None:
    """Whether this task has counted as many reports of the device as it may."""
    most = rules.max_participations
    if most is None or participations < most:
        return None
    return Ineligible(
        RefusalReason.NOT_ELIGIBLE, f"This device has taken part {participations} times; the most is {most}."
    )


def rules_asked(rules: DeviceRules) -> tuple[str, ...]:
    """The rules that ask for something: what the SDK must be able to check."""
    return tuple(name for name in rules.__struct_fields__ if getattr(rules, name))


def admits(locales: tuple[str, ...], locale: str) -> bool:
    """Whether a locale is among those wanted: ``en`` admits ``en-US``; an empty list admits all."""
    return not locales or in_ranges(locales, locale)


def _unfit(rules: Eligibility, message: CheckIn) -> str:
    conditions = message.conditions
    findings = (
        (
            rules.app_build_max is not None and message.app_build > rules.app_build_max,
            f"App build {message.app_build} is above {rules.app_build_max}.",
        ),
        (not admits(rules.locales, message.locale), f"Locale {message.locale} is not among the task's."),
        (
            message.examples < rules.min_examples,
            f"{message.examples} examples are fewer than {rules.min_examples}.",
        ),
        (rules.require_idle and not conditions.is_idle, "The device is in use."),
        (rules.require_charging and not conditions.is_charging, "The device is not charging."),
        (rules.require_unmetered and not conditions.is_unmetered, "The network is metered."),
        (conditions.battery_ratio < rules.min_battery_ratio, "The battery is too low."),
        (conditions.thermal_status > rules.max_thermal_status, "The device is too warm."),
    )
    return next((detail for is_broken, detail in findings if is_broken), "")
