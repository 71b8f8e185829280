"""Tokens: believed when this server signed them as this kind and they have not expired; refused otherwise."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import SigningKey, SigningKeys
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = bytes(range(32))
KEYS = SigningKeys.of(SECRET)
PHONE = DeviceIdentity(DeviceId("phone-1"), PopulationName("en-US"))
CLAIMS = AssignmentClaims(
    assignment=AssignmentId("a-1"),
    device=PHONE.device,
    population=PHONE.population,
    task=TaskName("next-word"),
    round=RoundId("next-word-7"),
    model_version=ModelVersion(7),
    codec={"codec": "deadzone", "value_bits": 8},
    seed=2**63 - 1,
    layout=bytes(16),
    expires_at=NOW + timedelta(minutes=10),
)


#: Tokens that releases have signed with ``KEYS``; phones still hold them after an upgrade. One of an earlier
#: format names no generation, or no network.
DEVICE_TOKENS = {
    3: (
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjJkYjZlYjNkIiwidHlwIjoia2V5ZmxvY2stZGV2aWNlK2p3dCJ9.eyJzdWIiOiJwaG9uZS0xI"
        "iwicG9wIjoiZW4tVVMiLCJnZW4iOjMsImlzcyI6ImtleWZsb2NrIiwiYXVkIjoia2V5ZmxvY2s6ZGV2aWNlIiwiZXhwIjoxNzcyMzcw"
        "MDAwLjB9.CE4QctyItVbFi2Ur5cWHRyh7PMZh1Cm9XV14MG6OH80"
    ),
    0: (
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjJkYjZlYjNkIiwidHlwIjoia2V5ZmxvY2stZGV2aWNlK2p3dCJ9.eyJzdWIiOiJwaG9uZS0xI"
        "iwicG9wIjoiZW4tVVMiLCJpc3MiOiJrZXlmbG9jayIsImF1ZCI6ImtleWZsb2NrOmRldmljZSIsImV4cCI6MTc3MjM3MDAwMC4wfQ.u"
        "t5NTCR6_vCYRPpGAksK8AgEHwXR31kgPw2QRdJI8jI"
    ),
}
ASSIGNMENT_TOKENS = {
    "with a network": (
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjJkYjZlYjNkIiwidHlwIjoia2V5ZmxvY2stYXNzaWdubWVudCtqd3QifQ.eyJqdGkiOiJhLTEi"
        "LCJzdWIiOiJwaG9uZS0xIiwicG9wIjoiZW4tVVMiLCJ0YXNrIjoibmV4dC13b3JkIiwicm91bmQiOiJuZXh0LXdvcmQtNyIsInZlciI"
        "6NywiY29kZWMiOnsiY29kZWMiOiJkZWFkem9uZSIsInZhbHVlX2JpdHMiOjh9LCJuZXQiOiJ1bm1ldGVyZWQiLCJzZWVkIjo5MjIzMz"
        "cyMDM2ODU0Nzc1ODA3LCJsYXlvdXQiOiJBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPT0iLCJpc3MiOiJrZXlmbG9jayIsImF1ZCI6Imtle"
        "WZsb2NrOmFzc2lnbm1lbnQiLCJleHAiOjE3NzIzNjcwMDAuMH0.rEvkYPfb6rHfEgn9o-EIwHhUKw1kiqrTSSujz4qKZKg"
    ),
    "without one": (
        "eyJhbGciOiJIUzI1NiIsImtpZCI6IjJkYjZlYjNkIiwidHlwIjoia2V5ZmxvY2stYXNzaWdubWVudCtqd3QifQ.eyJqdGkiOiJhLTEi"
        "LCJzdWIiOiJwaG9uZS0xIiwicG9wIjoiZW4tVVMiLCJ0YXNrIjoibmV4dC13b3JkIiwicm91bmQiOiJuZXh0LXdvcmQtNyIsInZlciI"
        "6NywiY29kZWMiOnsiY29kZWMiOiJkZWFkem9uZSIsInZhbHVlX2JpdHMiOjh9LCJzZWVkIjo5MjIzMzcyMDM2ODU0Nzc1ODA3LCJsYX"
        "lvdXQiOiJBQUFBQUFBQUFBQUFBQUFBQUFBQUFBPT0iLCJpc3MiOiJrZXlmbG9jayIsImF1ZCI6ImtleWZsb2NrOmFzc2lnbm1lbnQiL"
        "CJleHAiOjE3NzIzNjcwMDAuMH0.kZO1TBZDPTQBMWwEprV5w-R2Yt5jFk5NrpkJsB7ZF5A"
    ),
}


def device_tokens(keys: SigningKeys = KEYS) -> DeviceTokens:
    return DeviceTokens(keys, ttl_s=3600.0, leeway_s=5.0, refresh_grace_s=86_400.0)


def refused(read: object, token: str, now: datetime = NOW) -> ProblemCode:
    assert callable(read)
    with pytest.raises(ApiError) as caught:
        read(token, now)
    return caught.value.code


def test_a_device_token_names_its_device_until_it_expires() -> None:
    tokens = device_tokens()

    token = tokens.issue(PHONE, NOW)

    assert tokens.read(token, NOW) == PHONE
    assert tokens.read(token, NOW + timedelta(seconds=3604)) == PHONE
    assert refused(tokens.read, token, NOW + timedelta(seconds=3605)) is ProblemCode.TOKEN_EXPIRED


def test_a_device_token_brings_back_what_it_says_of_its_device() -> None:
    contributed_at = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
    described = replace(PHONE, is_described=True, tier=3, tags=("beta", "tablet"))
    tokens = device_tokens()

    for identity in (described, replace(described, last_contributed_at=contributed_at)):
        assert tokens.read(tokens.issue(identity, NOW), NOW) == identity


def test_an_expired_device_token_is_exchanged_within_its_grace_and_no_longer() -> None:
    tokens = device_tokens()
    token = tokens.issue(PHONE, NOW)

    assert tokens.read_for_refresh(token, NOW + timedelta(seconds=3600 + 86_399)) == PHONE
    assert refused(tokens.read_for_refresh, token, NOW + timedelta(seconds=3600 + 86_400)) is (
        ProblemCode.ENROLMENT_EXPIRED
    )


def test_an_assignment_token_brings_back_every_claim_exactly() -> None:
    tokens = AssignmentTokens(KEYS)

    assert tokens.read(tokens.issue(CLAIMS), NOW) == CLAIMS
    assert tokens.issue(CLAIMS) == tokens.issue(CLAIMS)


def test_an_expired_assignment_has_lost_its_round() -> None:
    tokens = AssignmentTokens(KEYS, leeway_s=5.0)

    code = refused(tokens.read, tokens.issue(CLAIMS), CLAIMS.expires_at + timedelta(seconds=5))

    assert code is ProblemCode.ROUND_GONE
    assert tokens.read(tokens.issue(CLAIMS), CLAIMS.expires_at + timedelta(seconds=4)) == CLAIMS


def test_an_expired_assignment_can_still_be_read_for_what_it_was() -> None:
    tokens = AssignmentTokens(KEYS, leeway_s=5.0)

    assert tokens.read_late(tokens.issue(CLAIMS)) == CLAIMS
    assert tokens.has_expired(CLAIMS, CLAIMS.expires_at + timedelta(seconds=5))
    assert not tokens.has_expired(CLAIMS, CLAIMS.expires_at + timedelta(seconds=4))


@pytest.mark.parametrize("generation", DEVICE_TOKENS)
def test_a_device_token_of_an_earlier_release_is_read(generation: int) -> None:
    identity = device_tokens().read(DEVICE_TOKENS[generation], NOW)

    assert identity == DeviceIdentity(PHONE.device, PHONE.population, generation)
    assert identity.expires_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize("name", ASSIGNMENT_TOKENS)
def test_an_assignment_token_of_an_earlier_release_is_read(name: str) -> None:
    assert AssignmentTokens(KEYS).read(ASSIGNMENT_TOKENS[name], NOW) == CLAIMS


def test_the_network_of_an_assignment_comes_back() -> None:
    tokens, claims = AssignmentTokens(KEYS), replace(CLAIMS, network="metered")

    assert tokens.read(tokens.issue(claims), NOW) == claims


def test_clocks_may_differ_by_five_seconds_where_nobody_says_otherwise() -> None:
    assignments, devices = AssignmentTokens(KEYS), DeviceTokens(KEYS, ttl_s=3600.0)
    nearly, five = timedelta(seconds=4.999), timedelta(seconds=5)

    assert assignments.leeway_s == 5.0
    assert assignments.read(assignments.issue(CLAIMS), CLAIMS.expires_at + nearly) == CLAIMS
    assert assignments.has_expired(CLAIMS, CLAIMS.expires_at + five)
    expires_at = NOW + timedelta(hours=1)
    assert devices.read(devices.issue(PHONE, NOW), expires_at + nearly) == PHONE
    assert refused(devices.read, devices.issue(PHONE, NOW), expires_at + five) is ProblemCode.TOKEN_EXPIRED


def test_one_kind_of_token_is_never_taken_for_the_other() -> None:
    devices, assignments = device_tokens(), AssignmentTokens(KEYS)

    assert refused(assignments.read, devices.issue(PHONE, NOW)) is ProblemCode.ASSIGNMENT_TOKEN_INVALID
    assert refused(devices.read, assignments.issue(CLAIMS)) is ProblemCode.TOKEN_INVALID
    assert refused(devices.read_for_refresh, assignments.issue(CLAIMS)) is ProblemCode.TOKEN_INVALID


def test_a_token_of_another_server_is_foreign() -> None:
    foreign = device_tokens(SigningKeys.of(bytes(32))).issue(PHONE, NOW)

    assert refused(device_tokens().read, foreign) is ProblemCode.TOKEN_INVALID


def test_a_retired_key_still_verifies_and_the_current_one_signs() -> None:
    old = device_tokens().issue(PHONE, NOW)
    rotated = device_tokens(SigningKeys(SigningKey.of(bytes(32)), (SigningKey.of(SECRET),)))

    assert rotated.read(old, NOW) == PHONE
    assert jwt.get_unverified_header(rotated.issue(PHONE, NOW))["kid"] == SigningKey.of(bytes(32)).id


def test_every_single_changed_character_is_noticed() -> None:
    tokens = device_tokens()
    token = tokens.issue(PHONE, NOW)

    for position, character in enumerate(token):
        other = "A" if character != "A" else "Z"
        tampered = token[:position] + other + token[position + 1 :]
        if position == len(token) - 1:
            continue  # the last base64 character carries four bits that no byte holds
        assert refused(tokens.read, tampered) is ProblemCode.TOKEN_INVALID


def _segment(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "not a token",
        "é.é.é",
        "\udcff.\udcff.\udcff",
        "a" * 9_000,
        _segment(b"[" * 5_000) + ".e30.AA",
        _segment(b'{"alg":"HS256","kid":"x"}') + "." + _segment(b"[" * 100) + ".AA",
        _segment(b'{"alg":"HS256","kid":{"a":1}}') + ".e30.AA",
        _segment(b"null") + ".e30.AA",
    ],
)
def test_garbage_is_no_token(token: str) -> None:
    assert refused(device_tokens().read, token) is ProblemCode.TOKEN_INVALID


def test_an_unsigned_token_is_refused() -> None:
    header = {"alg": "none", "typ": "keyflock-device+jwt", "kid": KEYS.current.id}
    payload = {"sub": "phone-1", "pop": "en-US", "aud": "keyflock:device", "iss": "keyflock", "exp": 9e9}
    unsigned = f"{_segment(json.dumps(header).encode())}.{_segment(json.dumps(payload).encode())}."

    assert refused(device_tokens().read, unsigned) is ProblemCode.TOKEN_INVALID


def test_a_refusal_does_not_repeat_the_token() -> None:
    with pytest.raises(ApiError) as caught:
        device_tokens().read("secret-looking.garbage.token", NOW)

    assert "secret-looking" not in str(caught.value)
