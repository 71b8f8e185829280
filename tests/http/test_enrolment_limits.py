"""Enrolments are limited in all and by network; nothing of an address is kept but a bucket."""

import contextlib

import pytest

from keyflock_server.http.enrolment_limits import EnrolmentLimits
from keyflock_server.protocol.calls import Request
from keyflock_server.protocol.problems import ApiError, ProblemCode

pytestmark = pytest.mark.fault("D12")


def enrolment(peer: str = "") -> Request:
    return Request("POST", "/v1/devices", peer=peer)


def admitted(limits: EnrolmentLimits, peer: str, count: int, now_s: float = 0.0) -> int:
    """How many of so many enrolments are let in."""
    passed = 0
    for _ in range(count):
        with contextlib.suppress(ApiError):
            limits.admit(enrolment(peer), now_s)
            passed += 1
    return passed


def test_a_network_has_so_many_an_hour_and_others_have_theirs() -> None:
    limits = EnrolmentLimits(1_000, 10)

    assert admitted(limits, "203.0.113.7", 25) == 10
    assert admitted(limits, "203.0.113.200", 5) == 0
    assert admitted(limits, "203.0.114.7", 25) == 10
    assert admitted(limits, "2001:db8::1", 25) == 10
    assert admitted(limits, "2001:db8:0:ffff::1", 5) == 0
    assert admitted(limits, "203.0.113.7", 25, now_s=1_800.0) == 5
    assert admitted(limits, "203.0.113.7", 25, now_s=90_000.0) == 10


def test_all_networks_together_have_so_many_a_minute() -> None:
    limits = EnrolmentLimits(100, 10)

    total = sum(admitted(limits, f"203.0.{number}.1", 10) for number in range(30))

    assert total == 100
    assert admitted(limits, "198.51.100.1", 60, now_s=30.0) == 10
    # A network that was refused has not used up its own.
    assert admitted(limits, "203.0.29.1", 60, now_s=30.0) == 10


def test_the_refusal_says_when_to_come_and_quotes_nothing() -> None:
    limits = EnrolmentLimits(1_000, 10)
    admitted(limits, "203.0.113.7", 10)

    with pytest.raises(ApiError) as refused:
        limits.admit(enrolment("203.0.113.7"), 0.0)

    window = refused.value.retry
    assert refused.value.code is ProblemCode.TOO_MANY_REQUESTS
    assert window is not None
    assert (window.min_s, window.max_s) == (360.0, 360.0 + 3_600.0)
    assert "203" not in refused.value.detail


def test_a_clock_that_is_set_back_opens_nothing_and_closes_nothing() -> None:
    limits = EnrolmentLimits(1_000, 10)
    admitted(limits, "203.0.113.7", 10, now_s=1e9)

    assert admitted(limits, "203.0.113.7", 5, now_s=0.0) == 0
    assert admitted(limits, "203.0.113.7", 5, now_s=720.0) == 2


def test_the_networks_that_are_remembered_are_bounded() -> None:
    limits = EnrolmentLimits(1_000_000, 1, max_blocks=100)

    for number in range(1_000):
        limits.admit(enrolment(f"203.{number // 256}.{number % 256}.1"), 0.0)

    assert len(limits._blocks) == 100


def test_a_simulation_without_connections_enrols_as_many_as_it_wants() -> None:
    assert admitted(EnrolmentLimits(10, 1), "", 1_000) == 1_000
