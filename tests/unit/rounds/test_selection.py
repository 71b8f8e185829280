"""Sampling is uniform, unpredictable for phones, and the same on every replica."""

import hashlib
from collections import Counter
from math import log, nextafter, sqrt

import pytest

from keyflock_server.protocol.identifiers import DeviceId, RoundId, TaskName
from keyflock_server.rounds import selection
from keyflock_server.rounds.selection import (
    assignment_id,
    assignment_seed,
    claim_ratio,
    hash_ratio,
    is_sampled,
    meeting_probability,
    meeting_window_s,
    round_id,
    sample_size,
    sampling_probability,
    task_order,
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


def test_a_hash_at_the_probability_is_not_sampled_and_one_below_it_is() -> None:
    ratio = hash_ratio(KEY, ROUND, DEVICES[0])

    assert not is_sampled(KEY, ROUND, DEVICES[0], ratio)
    assert is_sampled(KEY, ROUND, DEVICES[0], nextafter(ratio, 1.0))


def test_the_window_ends_at_its_last_instant_however_many_are_expected() -> None:
    assert sampling_probability(16, 1e9, nextafter(80.0, 0.0), 80.0) < 1e-4
    assert sampling_probability(16, 1e9, 80.0, 80.0) == 1.0


def test_everybody_is_taken_where_no_more_are_expected_than_there_are_slots() -> None:
    assert sampling_probability(16, 16.0, 0.0, 80.0) == 1.0
    assert sampling_probability(16, 16.1, 0.0, 80.0) == pytest.approx(12 / 16.1)


def test_ids_differ_by_round_and_device() -> None:
    rounds = (RoundId("a"), RoundId("b"))

    ids = {assignment_id(KEY, round_id, device) for round_id in rounds for device in DEVICES[:50]}

    assert len(ids) == 100
    assert {len(each) for each in ids} == {32}


def test_seeds_fill_the_range_of_32_bits_and_no_more() -> None:
    seeds = [assignment_seed(KEY, ROUND, device) for device in DEVICES]

    # Of 20,000 uniform numbers one falls into each 1,000th of the range but for a probability of 2e-6, and
    # two are equal on average 0.05 times.
    assert {seed * 1_000 >> 32 for seed in seeds} == set(range(1_000))
    assert len(set(seeds)) > len(DEVICES) - 5


def test_ids_seeds_and_hashes_are_what_another_release_makes_of_the_same_key() -> None:
    # Replicas of two releases serve one round: blake2b("t-1\0" + device, keyed, with a personalisation).
    def digest(purpose: bytes) -> bytes:
        message = b"t-1\0" + DEVICES[0].encode()
        return hashlib.blake2b(message, key=KEY, digest_size=32, person=purpose).digest()

    assert assignment_id(KEY, ROUND, DEVICES[0]) == "11ea23e86ff3526ff9c925729c7366d3"
    assert assignment_id(KEY, ROUND, DEVICES[0]) == digest(b"assignment").hex()[:32]
    assert assignment_seed(KEY, ROUND, DEVICES[0]) == int.from_bytes(digest(b"seed")[:4], "big") == 1400817891
    assert hash_ratio(KEY, ROUND, DEVICES[0]) == 0.8967985190644612
    assert round_id(TaskName("t"), 1) == ROUND


def test_the_shortest_waiting_time_claims_first_and_the_period_is_an_hour() -> None:
    traffic = {TaskName(name): weight for name, weight in (("a", 0.5), ("b", 2.0), ("c", 4.0))}

    def waits(task: TaskName, period: int) -> float:
        message = f"{task}@{period}".encode() + b"\0" + DEVICES[0].encode()
        digest = hashlib.blake2b(message, key=KEY, digest_size=32, person=b"traffic").digest()
        uniform = ((int.from_bytes(digest[:8], "big") >> 11) + 1) / 2**53
        return -log(uniform) / traffic[task]

    for hour in range(200):
        expected = sorted(traffic, key=lambda task: waits(task, hour))
        for now_s in (3_600.0 * hour, 3_600.0 * hour + 3_599.0):
            assert task_order(KEY, DEVICES[0], traffic, now_s) == expected


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
