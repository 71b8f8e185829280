"""What is remembered of devices: the newest facts, whatever is read in which order, in bounded memory."""

from datetime import UTC, datetime, timedelta

import pytest

from keyflock_server.coordinator.device_activity import DeviceActivity, Silences
from keyflock_server.coordinator.recent_entries import RecentEntries
from keyflock_server.protocol.identifiers import DeviceId
from keyflock_server.storage.device_facts import DeviceFacts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("row_contributed_h", "row_silences", "contributed_h", "silences"),
    [
        (None, 3, 0, 1),
        (-1, 3, 0, 1),
        (0, 3, 0, 3),
        (0, 0, 0, None),
        (1, 0, 1, None),
        (1, 2, 1, 2),
    ],
    ids=["a row before the contribution", "a row of an earlier one", "more silences", "none any more",
         "a later contribution", "and silences after it"],
)  # fmt: skip
def test_a_row_is_adopted_unless_memory_knows_a_later_contribution(
    row_contributed_h: int | None,
    row_silences: int,
    contributed_h: int,
    silences: int | None,
) -> None:
    def hours(number: int) -> datetime:
        return NOW + timedelta(hours=number)

    activity, device = DeviceActivity(), DeviceId("a")
    activity.contributed([device], hours(0))
    activity.fell_silent(device, hours(2))
    row = DeviceFacts(
        device=device,
        last_contributed_at=None if row_contributed_h is None else hours(row_contributed_h),
        silences=row_silences,
        last_silent_at=hours(2),
    )

    activity.adopt(row, activity.quarantine_writes)

    assert activity.last_contribution(device, None) == hours(contributed_h)
    assert activity.last_contribution(device, hours(9)) == hours(9)  # what a token says
    assert activity.silences(device) == (None if silences is None else Silences(silences, hours(2)))


def test_silences_in_a_row_add_up_until_a_report_is_counted() -> None:
    activity, device = DeviceActivity(), DeviceId("a")

    activity.fell_silent(device, NOW)
    activity.fell_silent(device, NOW + timedelta(hours=1))
    silent = activity.silences(device)
    activity.contributed([device], NOW + timedelta(hours=2))

    assert silent == Silences(2, NOW + timedelta(hours=1))
    assert activity.silences(device) is None


def test_devices_that_have_not_contributed_take_no_place_of_those_that_have() -> None:
    activity = DeviceActivity(max_devices=2)
    activity.contributed([DeviceId("a")], NOW)

    for number in range(8):
        activity.adopt(DeviceFacts(device=DeviceId(f"{number}")), 0)

    assert activity.last_contribution(DeviceId("a"), None) == NOW
    assert activity.last_contribution(DeviceId("7"), NOW) == NOW
    assert activity.last_contribution(DeviceId("7"), None) is None


def test_a_quarantine_holds_until_its_end_and_is_dropped_then() -> None:
    activity, device, later = DeviceActivity(), DeviceId("a"), NOW + timedelta(seconds=1)
    activity.set_quarantine(device, NOW)
    activity.set_quarantine(DeviceId("b"), later)

    until = [activity.quarantined_until(DeviceId(name), NOW) for name in ("a", "b", "c")]
    activity.drop_expired(NOW)

    assert until == [None, later, None]
    assert list(activity._quarantined_until) == ["b"]


def test_a_million_devices_are_remembered_in_bounded_memory() -> None:
    entries: RecentEntries[int] = RecentEntries(1_000)

    for number in range(1_000_000):
        entries.put(number, number)

    assert len(entries) <= 2_000
    assert all(entries.get(number) == number for number in range(999_000, 1_000_000))
    assert entries.get(0) is None
