"""Eligibility: whether a phone may take part now. The phone's answers are never stored."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from msgspec import UNSET

from keyflock_server.protocol.messages import CheckIn, Conditions, RefusalReason, TaskKind
from keyflock_server.protocol.plans import DeviceRules
from keyflock_server.rounds.cohort import DeviceAttributes, in_ranges, matches, parse_cohort
from keyflock_server.rounds.task import Eligibility


@dataclass(frozen=True, slots=True)
class Ineligible:
    """The rule that a check-in breaks, with one sentence for the SDK's log."""

    reason: RefusalReason
    detail: str
    #: For ``too_soon``: the time until the device may come again.
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
    """Return the first rule that this check-in breaks, or None.

    Args:
        rules: The task's rules.
        message: The phone's check-in.
        last_contributed_at: When a report of this device was last counted.
        now: The current time.
        kind: The task's kind.
        tier: The device's tier, as stated at enrolment.
        tags: The device's tags, as stated at enrolment.
    """
    if message.app_build < rules.app_build_min:
        return Ineligible(
            RefusalReason.APP_TOO_OLD, f"App build {message.app_build} is below {rules.app_build_min}."
        )
    if (contributed := contribution_limit(rules, last_contributed_at, now)) is not None:
        return contributed
    if kind not in message.capabilities.tasks:
        return Ineligible(RefusalReason.NOT_ELIGIBLE, f"This build of the SDK has no task kind {kind}.")
    asked = rules_asked(rules.device)
    if asked and (unchecked := sorted(set(asked) - set(message.capabilities.device_rules))):
        return Ineligible(
            RefusalReason.NOT_ELIGIBLE, f"This build of the SDK does not check the rule {unchecked[0]}."
        )
    if rules.cohort:
        device = DeviceAttributes(message.app_build, message.locale, tier, tags)
        if not matches(parse_cohort(rules.cohort), device):
            return Ineligible(RefusalReason.NOT_ELIGIBLE, "The device is not in the task's cohort.")
    detail = _unfit(rules, message)
    return Ineligible(RefusalReason.NOT_ELIGIBLE, detail) if detail else None


def contribution_limit(
    rules: Eligibility, last_contributed_at: datetime | None, now: datetime
) -> Ineligible | None:
    """Return the rule that the device's last contribution breaks now, or None."""
    if last_contributed_at is None:
        return None
    if rules.not_trained_since is not UNSET and last_contributed_at > rules.not_trained_since:
        return Ineligible(RefusalReason.NOT_ELIGIBLE, "This device has trained what the task evaluates.")
    wait_s = rules.min_separation_s - (now - last_contributed_at).total_seconds()
    if wait_s <= 0.0:
        return None
    return Ineligible(RefusalReason.TOO_SOON, "This device has contributed recently.", wait_s)


def may_take_slot(
    rules: Eligibility,
    last_contributed_at: datetime | None,
    quarantined_until: datetime | None,
    now: datetime,
) -> bool:
    """Return whether a device may take a slot now, by what may have changed since its token was issued."""
    is_quarantined = quarantined_until is not None and quarantined_until > now
    return not is_quarantined and contribution_limit(rules, last_contributed_at, now) is None


def participation_limit_reached(rules: Eligibility, participations: int) -> Ineligible | None:
    """Return the broken limit if this task has counted as many reports of the device as it may."""
    limit = rules.max_participations
    if limit is None or participations < limit:
        return None
    return Ineligible(
        RefusalReason.NOT_ELIGIBLE, f"This device has taken part {participations} times; the most is {limit}."
    )


def download_too_large(message: CheckIn, download_bytes: int) -> Ineligible | None:
    """Return the broken limit if the model is larger than what the phone downloads."""
    limit = message.capabilities.max_download_bytes
    if download_bytes <= limit:
        return None
    return Ineligible(
        RefusalReason.NOT_ELIGIBLE,
        f"The model has {download_bytes} bytes, and this device downloads at most {limit}.",
    )


@lru_cache(maxsize=64)
def rules_asked(rules: DeviceRules) -> tuple[str, ...]:
    """Return the rules that are set, which the SDK must be able to check."""
    return tuple(name for name in rules.__struct_fields__ if getattr(rules, name))


def admits(locales: tuple[str, ...], locale: str) -> bool:
    """Return whether a locale is admitted: ``en`` admits ``en-US``; an empty list admits all."""
    return not locales or in_ranges(locales, locale)


def _unfit(rules: Eligibility, message: CheckIn) -> str:
    if rules.app_build_max is not None and message.app_build > rules.app_build_max:
        return f"App build {message.app_build} is above {rules.app_build_max}."
    if not admits(rules.locales, message.locale):
        return f"Locale {message.locale} is not among the task's."
    if message.examples < rules.min_examples:
        return f"{message.examples} examples are fewer than {rules.min_examples}."
    return _unfit_conditions(rules, message.conditions)


def _unfit_conditions(rules: Eligibility, conditions: Conditions) -> str:
    if rules.require_idle and not conditions.is_idle:
        return "The device is in use."
    if rules.require_charging and not conditions.is_charging:
        return "The device is not charging."
    if rules.require_unmetered and not conditions.is_unmetered:
        return "The network is metered."
    if conditions.battery_ratio < rules.min_battery_ratio:
        return "The battery is too low."
    if conditions.thermal_status > rules.max_thermal_status:
        return "The device is too warm."
    return ""
