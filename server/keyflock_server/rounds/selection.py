"""Who takes part: a keyed hash against a probability. Stateless, so every replica and every retry agrees.

The hash of (round, device) is a uniform number that no phone can choose. A device is sampled when it lies
below the round's probability; the probability only rises while the round is open, so whoever was sampled
stays so, and the cohort is a uniform sample of the eligible devices that come, not of the fastest.

Source: hash sampling as in Bonawitz et al. 2019, section 2.2 (reservoir there); BLAKE2b keyed mode, RFC 7693.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Final

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId, TaskName

#: A float holds 53 bits exactly: with more, the largest hash would round to 1 and be below no probability.
_HASH_BITS = 53
_HASH_STEP = 2.0**-_HASH_BITS
#: For this share of the selection window the probability stands still.
_CALM_SHARE: Final = 0.5
#: In the last quarter of the window the probability doubles so often.
_DOUBLINGS: Final = 8.0
#: A device that was silent again and again is still sampled this often.
_MAX_HALVINGS: Final = 6
#: How often a device may be offered to another task first.
TRAFFIC_PERIOD_S: Final = 3_600.0


def is_sampled(key: bytes, round_id: RoundId, device: DeviceId, probability: float) -> bool:
    """Whether this device is in this round's sample.

    Args:
        key: The server's secret, at most 64 bytes, so that phones cannot foresee the answer.
        round_id: Of the open round.
        device: Who asks.
        probability: In [0, 1].
    """
    return hash_ratio(key, round_id, device) < probability


def hash_ratio(key: bytes, round_id: RoundId, device: DeviceId) -> float:
    """The device's place among all that could come to this round: uniform in [0, 1), and its own."""
    return (_number(key, b"sample", round_id, device) >> (64 - _HASH_BITS)) * _HASH_STEP


def sampling_probability(
    slots: int, expected_arrivals: float, elapsed_s: float, selection_window_s: float
) -> float:
    """The threshold at an instant of an open round; never falls while slots and arrivals are the same.

    For half the window it stands where five of six samples fit into the slots, so that devices that come
    late or seldom find a slot as often as those that are always there. Then it rises by half in a quarter of
    the window, so slowly that what is missing is taken in the order of the hashes too. In the last quarter
    it doubles again and again, so that no round starves when fewer come than expected.

    Args:
        slots: Slots of the round.
        expected_arrivals: Eligible devices expected to check in for this round.
        elapsed_s: Since the round opened.
        selection_window_s: How long selection may be choosy; from then on everyone is taken.
    """
    if elapsed_s >= selection_window_s or expected_arrivals <= slots:
        return 1.0
    calm_s = _CALM_SHARE * selection_window_s
    late_ratio = max(0.0, elapsed_s - calm_s) / (selection_window_s - calm_s)
    growth = (1.0 + late_ratio) * math.exp2(_DOUBLINGS * max(0.0, 2.0 * late_ratio - 1.0))
    return min(1.0, sample_size(slots) / expected_arrivals * growth)


def claim_ratio(silences: int) -> float:
    """What a device's claim to a slot is worth: a factor of its probability of being sampled, in [1/64, 1].

    A phone may lose its connection once; each further assignment in a row of which nothing was heard halves
    the claim. It is never nothing, so that a phone that has come to its senses gets a slot, reports, and has
    its whole claim again.

    Args:
        silences: Assignments in a row that ran out of time with nothing heard of the device.
    """
    return math.exp2(-min(max(silences - 1, 0), _MAX_HALVINGS))


def sample_size(slots: int) -> float:
    """Devices to be in the sample on average, so that five of six samples fit into the slots.

    A sample is as good as Poisson; half the slots at least, however few they are.
    """
    return max(0.5 * slots, slots - math.sqrt(slots))


def task_order(
    key: bytes, device: DeviceId, traffic: Mapping[TaskName, float], now_s: float
) -> list[TaskName]:
    """In which order a population's tasks may claim this device now.

    Each task draws an exponential waiting time of its own rate, by the keyed hash of (task, period, device),
    and the first to ring claims first: so shares of first claims are the weights' shares, and a task
    that comes or goes moves no device between two others.

    Args:
        key: The server's secret.
        device: Who asks.
        traffic: Weights, above 0.
        now_s: Seconds since the epoch; the order holds for ``TRAFFIC_PERIOD_S``.
    Source:
        Efraimidis and Spirakis 2006, weighted random sampling, doi:10.1016/j.ipl.2005.11.003.
    """
    period = math.floor(now_s / TRAFFIC_PERIOD_S)

    def rings_at(task: TaskName) -> float:
        number = _number(key, b"traffic", RoundId(f"{task}@{period}"), device) >> (64 - _HASH_BITS)
        return -math.log((number + 1) * _HASH_STEP) / traffic[task]

    return sorted(traffic, key=lambda task: (rings_at(task), task))


def round_id(task: TaskName, sequence: int) -> RoundId:
    """The id of a task's round of this number: known before the round is opened."""
    return RoundId(f"{task}-{sequence}")


def assignment_id(key: bytes, round_id: RoundId, device: DeviceId) -> AssignmentId:
    """The one id that this device can have in this round. 32 hexadecimal digits."""
    return AssignmentId(_hash(key, b"assignment", round_id, device).hex()[:32])


def assignment_seed(key: bytes, round_id: RoundId, device: DeviceId) -> int:
    """Seed of the device's shuffling and stochastic rounding. In [0, 2**32)."""
    return _number(key, b"seed", round_id, device) >> 32


def _number(key: bytes, purpose: bytes, round_id: RoundId, device: DeviceId) -> int:
    return int.from_bytes(_hash(key, purpose, round_id, device)[:8], "big")


def _hash(key: bytes, purpose: bytes, round_id: RoundId, device: DeviceId) -> bytes:
    message = round_id.encode() + b"\x00" + device.encode()
    return hashlib.blake2b(message, key=key, digest_size=32, person=purpose[:16]).digest()
