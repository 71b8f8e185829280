"""Who takes part: a keyed hash against a probability. Stateless, so every replica and every retry agrees.

The hash of (round, device) is a uniform number that no phone can choose. A device is sampled when it lies
below the round's probability; the probability only rises while the round is open, so whoever was sampled
stays so, and the cohort is a uniform sample of the eligible devices that come, not of the fastest.

Source: hash sampling as in Bonawitz et al. 2019, section 2.2 (reservoir there); BLAKE2b keyed mode, RFC 7693.
"""

import hashlib
import math

from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, RoundId

#: A float holds 53 bits exactly: with more, the largest hash would round to 1 and be below no probability.
_HASH_BITS = 53
_HASH_STEP = 2.0**-_HASH_BITS


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

    Starts at slots over expected arrivals, so that the sample is spread over the whole window, and doubles
    eightfold over the window, so that no round starves when fewer come than expected.

    Args:
        slots: Slots of the round.
        expected_arrivals: Eligible devices expected to check in during the window.
        elapsed_s: Since the round opened.
        selection_window_s: How long selection may be choosy; from then on everyone is taken.
    """
    if elapsed_s >= selection_window_s or expected_arrivals <= slots:
        return 1.0
    doublings = 8.0 * max(0.0, elapsed_s) / selection_window_s
    return min(1.0, slots / expected_arrivals * math.exp2(doublings))


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
