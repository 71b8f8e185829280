"""Void tokens: which generations, from when, and until when that is remembered."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.revocations import ALL_GENERATIONS, Revocations
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
EN = PopulationName("en")


def phone(generation: int, name: str = "a") -> DeviceIdentity:
    return DeviceIdentity(DeviceId(name), EN, generation)


def void(revocations: Revocations, now: datetime, name: str = "a") -> list[int]:
    """Which of the first four generations are void."""
    return [generation for generation in range(4) if is_refused(revocations, phone(generation, name), now)]


def is_refused(revocations: Revocations, identity: DeviceIdentity, now: datetime) -> bool:
    try:
        revocations.check(identity, now)
    except ApiError as refused:
        return refused.code is ProblemCode.TOKEN_INVALID
    return False


@pytest.mark.fault("D6")
def test_a_refreshed_token_is_good_for_its_grace_and_those_before_it_are_not() -> None:
    revocations = Revocations(b"key")
    revocations.record(revocations.digest(DeviceId("a")), 2, NOW + MINUTE, NOW + DAY)

    assert void(revocations, NOW) == [0, 1]
    assert void(revocations, NOW + MINUTE) == [0, 1, 2]
    assert void(revocations, NOW + MINUTE, "b") == []


@pytest.mark.fault("D5")
def test_no_later_news_brings_a_forgotten_device_back() -> None:
    revocations = Revocations(b"key")
    digest = revocations.digest(DeviceId("a"))

    revocations.record(digest, ALL_GENERATIONS, NOW, NOW + DAY)
    revocations.record(digest, 1, NOW + DAY, NOW + DAY)

    assert void(revocations, NOW) == [0, 1, 2, 3]


@pytest.mark.fault("D6")
def test_a_grace_is_ended_by_a_revocation_and_not_begun_anew_by_old_news() -> None:
    revocations = Revocations(b"key")
    digest = revocations.digest(DeviceId("a"))
    revocations.record(digest, 1, NOW + MINUTE, NOW + DAY)

    revocations.record(digest, 1, NOW, NOW + DAY)
    revocations.record(digest, 1, NOW + MINUTE, NOW + DAY)

    assert void(revocations, NOW) == [0, 1]


@pytest.mark.fault("D6")
def test_what_has_expired_by_itself_takes_no_memory() -> None:
    revocations = Revocations(b"key")
    for number in range(100):
        digest = revocations.digest(DeviceId(f"phone-{number}"))
        revocations.record(digest, 0, NOW, NOW + number * MINUTE)
        revocations.record(digest, 1, NOW, NOW + number * MINUTE)

    held = len(revocations)
    revocations.drop_expired(NOW + 50 * MINUTE)

    assert (held, len(revocations)) == (100, 49)


@pytest.mark.fault("D6")
def test_a_token_carries_its_generation_and_one_of_an_earlier_release_is_of_the_first() -> None:
    keys = SigningKeys.of(bytes(range(32)))
    tokens = DeviceTokens(keys, ttl_s=3_600.0)
    expires_at = (NOW + DAY).timestamp()
    claims = {"iss": "keyflock", "aud": "keyflock:device", "exp": expires_at, "sub": "a", "pop": "en"}
    header = {"typ": "keyflock-device+jwt", "kid": keys.current.id}
    old = jwt.encode(claims, keys.current.secret, "HS256", header)

    read = tokens.read(tokens.issue(phone(7), NOW), NOW)

    assert read == phone(7)
    assert read.expires_at == NOW + timedelta(hours=1)
    assert tokens.read(old, NOW) == phone(0)
