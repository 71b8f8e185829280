"""Selection of a round's cohort: a keyed hash against a probability. Stateless, so all replicas agree.

The hash of (round, device) is a uniform number that no phone can choose. A device is sampled when its hash is
below the round's probability; the probability only rises while the round is open, so a sampled device stays
sampled, and the cohort is a uniform sample of the eligible devices that come, not of the fastest.

Source: hash sampling as in Bonawitz et al. 2019, section 2.2 (reservoir there); BLAKE2b keyed mode, RFC 7693.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId, TaskName

#: A float holds 53 bits exactly: with more, the largest hash would round to 1 and be below no probability.
_HASH_BITS = 53
_HASH_STEP = 2.0**-_HASH_BITS
#: For this share of the selection window the probability is constant.
_STEADY_SHARE: Final = 0.5
#: Number of meetings of a small population after which each of its devices is taken.
MEETINGS: Final = 4
#: Number of doublings of the probability in the last quarter of the window.
_DOUBLINGS: Final = 8.0
#: Number of selection windows after which a slot that nobody took goes to any device, silent ones too.
UNWANTED_AFTER_WINDOWS: Final = 2.0
#: Maximum number of halvings of a silent device's probability.
_MAX_HALVINGS: Final = 6
#: The period after which a device may be offered to another task first.
TRAFFIC_PERIOD_S: Final = 3_600.0


def is_sampled(key: bytes, round_id: RoundId, device: DeviceId, probability: float) -> bool:
    """Return whether this device is in this round's sample.

    Args:
        key: The server's secret, at most 64 bytes, so that phones cannot foresee the answer.
        round_id: The id of the open round.
        device: The id of the device.
        probability: The sampling probability, in [0, 1].
    """
    return hash_ratio(key, round_id, device) < probability


def hash_ratio(key: bytes, round_id: RoundId, device: DeviceId) -> float:
    """Return the device's hash for this round as a number, uniform in [0, 1)."""
    return (_number(key, b"sample", round_id, device) >> (64 - _HASH_BITS)) * _HASH_STEP


def sampling_probability(
    slots: int, expected_arrivals: float, elapsed_s: float, selection_window_s: float
) -> float:
    """Return the probability at an instant of an open round; it never falls for constant slots and arrivals.

    For half the window it is such that five of six samples fit into the slots, so that devices that come
    late or seldom find a slot as often as those that come often. Then it rises by half in a quarter of the
    window, so slowly that missing devices are taken in the order of their hashes too. In the last quarter it
    doubles repeatedly, so that no round starves when fewer devices come than expected.

    Args:
        slots: Number of the round's slots.
        expected_arrivals: Expected number of eligible devices that check in for this round.
        elapsed_s: Time since the round opened.
        selection_window_s: Time after which every eligible device is taken.
    """
    if elapsed_s >= selection_window_s or expected_arrivals <= slots:
        return 1.0
    steady_s = _STEADY_SHARE * selection_window_s
    late_ratio = max(0.0, elapsed_s - steady_s) / (selection_window_s - steady_s)
    growth = (1.0 + late_ratio) * math.exp2(_DOUBLINGS * max(0.0, 2.0 * late_ratio - 1.0))
    return min(1.0, sample_size(slots) / expected_arrivals * growth)


def meeting_probability(slots: int, expected_arrivals: float, elapsed_s: float, window_s: float) -> float:
    """Return the probability at an instant of an open round of a small population, whose phones meet.

    All of them come to every meeting, so a sample that was too small need not wait for late phones: in each
    quarter of the window, at most from one meeting to the next, the wanted sample grows by the square root of
    the slots, which is the deviation of its size. Missing devices are taken in the order of their hashes.

    Args:
        slots: Number of the round's slots.
        expected_arrivals: Expected number of eligible devices at a meeting.
        elapsed_s: Time since the round opened.
        window_s: Time after which every eligible device is taken.
    Guarantees:
        It never falls for constant slots and arrivals.
    """
    if elapsed_s >= window_s or expected_arrivals <= slots:
        return 1.0
    quarters = MEETINGS * max(elapsed_s, 0.0) / window_s
    wanted = sample_size(slots) + quarters * math.sqrt(slots)
    return min(1.0, wanted / expected_arrivals)


def meeting_window_s(selection_window_s: float, period_s: float) -> float:
    """Return the time after which a round takes every device of a small population: four meetings at most."""
    return min(selection_window_s, MEETINGS * period_s)


def claim_ratio(silences: int) -> float:
    """Return the factor of a silent device's probability of being sampled, in [1/64, 1].

    A phone may lose its connection once; each further silent assignment in a row halves the factor. It is
    never 0, so that a phone that works again gets a slot, reports, and has the factor 1 again.

    Args:
        silences: Number of consecutive assignments that expired without a message from the device.
    """
    return math.exp2(-min(max(silences - 1, 0), _MAX_HALVINGS))


def sample_size(slots: int) -> float:
    """Return the mean sample size with which five of six samples fit into the slots.

    The size of a sample is nearly Poisson; the mean is at least half the slots.
    """
    return max(0.5 * slots, slots - math.sqrt(slots))


def task_order(
    key: bytes, device: DeviceId, traffic: Mapping[TaskName, float], now_s: float
) -> list[TaskName]:
    """Return the order in which a population's tasks may claim this device now.

    Each task draws an exponential waiting time of its own rate, by the keyed hash of (task, period, device),
    and the shortest claims first: so the shares of first claims are the weights' shares, and a task that is
    added or removed moves no device between two others.

    Args:
        key: The server's secret.
        device: The id of the device.
        traffic: The tasks' weights, above 0.
        now_s: Seconds since the epoch; the order holds for ``TRAFFIC_PERIOD_S``.
    Source:
        Efraimidis and Spirakis 2006, weighted random sampling, doi:10.1016/j.ipl.2005.11.003.
    """
    if len(traffic) == 1:
        return list(traffic)
    period = math.floor(now_s / TRAFFIC_PERIOD_S)

    def rings_at(task: TaskName) -> float:
        number = _number(key, b"traffic", RoundId(f"{task}@{period}"), device) >> (64 - _HASH_BITS)
        return -math.log((number + 1) * _HASH_STEP) / traffic[task]

    return sorted(traffic, key=lambda task: (rings_at(task), task))


def round_id(task: TaskName, sequence: int) -> RoundId:
    """Return the id of a task's round of this number, which is known before the round is opened."""
    return RoundId(f"{task}-{sequence}")


def assignment_id(key: bytes, round_id: RoundId, device: DeviceId) -> AssignmentId:
    """Return the one assignment id that this device can have in this round: 32 hexadecimal digits."""
    return AssignmentId(_hash(key, b"assignment", round_id, device).hex()[:32])


def assignment_seed(key: bytes, round_id: RoundId, device: DeviceId) -> int:
    """Return the seed of the device's shuffling and stochastic rounding, in [0, 2**32)."""
    return _number(key, b"seed", round_id, device) >> 32


def _number(key: bytes, purpose: bytes, round_id: RoundId, device: DeviceId) -> int:
    return int.from_bytes(_hash(key, purpose, round_id, device)[:8], "big")


def _hash(key: bytes, purpose: bytes, round_id: RoundId, device: DeviceId) -> bytes:
    hasher = _begun(key, purpose, round_id).copy()
    hasher.update(device.encode())
    return hasher.digest()


@lru_cache(maxsize=256)
def _begun(key: bytes, purpose: bytes, round_id: RoundId) -> "hashlib.blake2b":
    """Return a hasher that has read what is the same for all devices."""
    begun = hashlib.blake2b(key=key, digest_size=32, person=purpose[:16])
    begun.update(round_id.encode() + b"\x00")
    return begun
