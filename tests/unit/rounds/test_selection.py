"""Sampling is uniform, unpredictable for phones, and the same on every replica."""

from collections import Counter
from math import sqrt

import pytest

from keyflock_server.protocol.identifiers import DeviceId, RoundId
from keyflock_server.rounds import selection
from keyflock_server.rounds.selection import (
    assignment_id,
    assignment_seed,
    claim_ratio,
    hash_ratio,
    is_sampled,
    meeting_probability,
    meeting_window_s,
    sample_size,
    sampling_probability,
)

KEY = b"k" * 32
ROUND = RoundId("t-1")
DEVICES = [DeviceId(f"{number:032x}") for number in range(20_000)]


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.9])
def test_the_share_that_is_sampled_is_the_probability(probability: float) -> None:
    sampled = sum(is_sampled(KEY, ROUND, device, probability) for device in DEVICES)

    # Five standard deviations of a binomial: a false alarm once in 1.7 million keys.
    deviation = sqrt(len(DEVICES) * probability * (1 - probability))
    assert abs(sampled - len(DEVICES) * probability) < 5 * deviation


@pytest.mark.parametrize("by", ["device", "round"])
def test_places_in_the_hash_order_are_uniform_over_devices_and_over_rounds(by: str) -> None:
    rounds = [RoundId(f"t-{number}") for number in range(len(DEVICES))]
    pairs = [(ROUND, one) for one in DEVICES] if by == "device" else [(one, DEVICES[0]) for one in rounds]

    filled = Counter(int(hash_ratio(KEY, *pair) * 64) for pair in pairs)

    # Pearson's chi-square with 63 degrees of freedom is above 120.3 once in 100,000 keys (hash and key are
    # fixed here, so this passes always or never).
    expected = len(DEVICES) / 64
    assert sum((filled[place] - expected) ** 2 / expected for place in range(64)) < 120.3


def test_even_the_largest_hash_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_hash", lambda *_: b"\xff" * 32)

    assert hash_ratio(KEY, ROUND, DEVICES[0]) < 1.0
    assert is_sampled(KEY, ROUND, DEVICES[0], 1.0)


def test_whoever_is_sampled_stays_so_while_the_probability_rises() -> None:
    early = {device for device in DEVICES if is_sampled(KEY, ROUND, device, 0.1)}
    late = {device for device in DEVICES if is_sampled(KEY, ROUND, device, 0.2)}

    assert early < late


def test_rounds_sample_independently_of_each_other() -> None:
    first = {device for device in DEVICES if is_sampled(KEY, ROUND, device, 0.5)}
    second = {device for device in DEVICES if is_sampled(KEY, RoundId("t-2"), device, 0.5)}

    # Expected 5,000 in both; five standard deviations of a binomial with a quarter.
    assert abs(len(first & second) - 5_000) < 5 * sqrt(20_000 * 0.25 * 0.75)


def test_the_bounds_take_nobody_and_everybody() -> None:
    assert not any(is_sampled(KEY, ROUND, device, 0.0) for device in DEVICES[:1000])
    assert all(is_sampled(KEY, ROUND, device, 1.0) for device in DEVICES[:1000])


def test_the_probability_stands_for_half_the_window_and_rises_slowly_then() -> None:
    course = [sampling_probability(16, 1000.0, elapsed, 80.0) for elapsed in (0.0, 40.0, 60.0, 65.0, 80.0)]

    # 16 - 4 = 12 in the sample; half as many again after three quarters; then doubling.
    assert course == pytest.approx([0.012, 0.012, 0.018, 0.012 * 1.625 * 2**2, 1.0])
    assert sampling_probability(10, 8.0, 0.0, 100.0) == 1.0


def test_five_of_six_samples_fit_into_the_slots() -> None:
    assert sample_size(100) == 90.0
    assert sample_size(2) == 1.0


def test_ids_and_seeds_differ_by_round_and_device_and_repeat_for_the_same() -> None:
    ids = {assignment_id(KEY, round_id, device) for round_id in ("a", "b") for device in DEVICES[:50]}  # type: ignore[arg-type]  # plain text for a round id

    assert len(ids) == 100
    assert assignment_id(KEY, ROUND, DEVICES[0]) == assignment_id(KEY, ROUND, DEVICES[0])
    assert 0 <= assignment_seed(KEY, ROUND, DEVICES[0]) < 2**32
    assert assignment_seed(KEY, ROUND, DEVICES[0]) != assignment_seed(KEY, ROUND, DEVICES[1])


@pytest.mark.fault("D13")
def test_each_silence_beyond_the_first_halves_a_claim_and_never_takes_it() -> None:
    ratios = [claim_ratio(silences) for silences in (0, 1, 2, 3, 7, 8, 1_000)]

    assert ratios == [1.0, 1.0, 1 / 2, 1 / 4, 1 / 64, 1 / 64, 1 / 64]


@pytest.mark.fault("F11")
def test_where_phones_meet_the_wanted_sample_grows_by_its_deviation_from_meeting_to_meeting() -> None:
    # 16 slots, 64 phones, a meeting every 10 s.
    at = [64.0 * meeting_probability(16, 64.0, 10.0 * number, 40.0) for number in range(5)]

    assert at == pytest.approx([12.0, 16.0, 20.0, 24.0, 64.0])
    assert meeting_probability(16, 64.0, 39.9, 40.0) < 0.5
    assert meeting_probability(16, 64.0, 40.0, 40.0) == 1.0
    assert meeting_probability(16, 16.0, 0.0, 40.0) == 1.0
    # A clock that was set back behind the opening.
    assert meeting_probability(16, 64.0, -5.0, 40.0) == meeting_probability(16, 64.0, 0.0, 40.0)


@pytest.mark.fault("F11")
def test_where_phones_meet_selection_lasts_four_meetings_or_as_long_as_the_task_says() -> None:
    assert meeting_window_s(150.0, 1.25) == 5.0
    assert meeting_window_s(150.0, 75.0) == 150.0
