"""Tokens that somebody has changed, or whose claims no release writes: each is refused as invalid."""

import base64
import json
import sys
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.signed_claims import MAX_TOKEN_CHARS
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
KEYS = SigningKeys.of(bytes(range(32)))
PHONE = DeviceIdentity(
    DeviceId("phone-1"),
    PopulationName("en-US"),
    3,
    is_described=True,
    tier=2,
    tags=("beta",),
    last_contributed_at=NOW - timedelta(days=2),
)
WORK = AssignmentClaims(
    assignment=AssignmentId("a-1"),
    device=PHONE.device,
    population=PHONE.population,
    task=TaskName("next-word"),
    round=RoundId("next-word-7"),
    model_version=ModelVersion(7),
    codec={"codec": "dense"},
    seed=5,
    layout=bytes(range(16)),
    expires_at=NOW + timedelta(minutes=10),
)
DEVICES, ASSIGNMENTS = DeviceTokens(KEYS, ttl_s=3_600.0), AssignmentTokens(KEYS)

DEVICE_HEADER = {"alg": "HS256", "kid": KEYS.current.id, "typ": "keyflock-device+jwt"}
DEVICE_CLAIMS = {
    "iss": "keyflock",
    "aud": "keyflock:device",
    "exp": (NOW + timedelta(hours=1)).timestamp(),
    "sub": "phone-1",
    "pop": "en-US",
    "gen": 3,
    "tier": 2,
    "tags": ["beta"],
    "last": (NOW - timedelta(days=2)).timestamp(),
}
ASSIGNMENT_HEADER = {**DEVICE_HEADER, "typ": "keyflock-assignment+jwt"}
ASSIGNMENT_CLAIMS = {
    "iss": "keyflock",
    "aud": "keyflock:assignment",
    "exp": WORK.expires_at.timestamp(),
    "jti": "a-1",
    "sub": "phone-1",
    "pop": "en-US",
    "task": "next-word",
    "round": "next-word-7",
    "ver": 7,
    "codec": {"codec": "dense"},
    "net": "unmetered",
    "seed": 5,
    "layout": base64.b64encode(bytes(range(16))).decode(),
}


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: object, payload: object) -> str:
    """Sign any header and any payload with the server's key; texts and bytes are signed as they are."""
    texts = [
        part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
        for part in (header, payload)
    ]
    return signed_text(".".join(map(segment, texts)))


def signed_text(text: str) -> str:
    key = jwt.PyJWS().get_algorithm_by_name("HS256").prepare_key(KEYS.current.secret)
    return f"{text}.{segment(jwt.PyJWS().get_algorithm_by_name('HS256').sign(text.encode(), key))}"


def code(token: str) -> ProblemCode:
    with pytest.raises(ApiError) as refused:
        DEVICES.read(token, NOW)
    return refused.value.code


def assignment_code(token: str) -> ProblemCode:
    with pytest.raises(ApiError) as refused:
        ASSIGNMENTS.read(token, NOW)
    return refused.value.code


def test_another_library_reads_and_writes_the_same_tokens() -> None:
    device, work = DEVICES.issue(PHONE, NOW), ASSIGNMENTS.issue(WORK)

    for token, header, claims, audience in (
        (device, DEVICE_HEADER, DEVICE_CLAIMS, "keyflock:device"),
        (work, ASSIGNMENT_HEADER, {**ASSIGNMENT_CLAIMS}, "keyflock:assignment"),
    ):
        read = jwt.decode(
            token, KEYS.current.secret, ["HS256"], {"verify_exp": False}, audience=audience, issuer="keyflock"
        )
        assert jwt.get_unverified_header(token) == header
        assert {"net": "unmetered", **read} == {"net": "unmetered", **claims}
    assert DEVICES.read(jwt.encode(DEVICE_CLAIMS, KEYS.current.secret, "HS256", DEVICE_HEADER), NOW) == PHONE
    assert ASSIGNMENTS.read(signed(ASSIGNMENT_HEADER, ASSIGNMENT_CLAIMS), NOW) == WORK


@pytest.mark.parametrize("suffix", ["=", "==", "A", "AA==", ".", "..", "\n", " ", "\x00", ".AA", "%3D", "é"])
def test_nothing_may_follow_a_token(suffix: str) -> None:
    assert code(DEVICES.issue(PHONE, NOW) + suffix) is ProblemCode.TOKEN_INVALID


def test_each_segment_has_one_spelling() -> None:
    token = DEVICES.issue(PHONE, NOW)
    parts = token.split(".")

    for position, part in enumerate(parts):
        for other in (part + "=", part + "==", part + "=" * (-len(part) % 4 or 4), part[:-1], part + "A"):
            changed = ".".join((*parts[:position], other, *parts[position + 1 :]))
            assert code(changed) is ProblemCode.TOKEN_INVALID
    # The last character of 32 bytes has two bits that no byte holds, in four spellings of one signature.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = [token[:-1] + other for other in alphabet if other != token[-1]]
    assert {code(other) for other in others} == {ProblemCode.TOKEN_INVALID}


@pytest.mark.parametrize(
    "header",
    [
        {**DEVICE_HEADER, "alg": "none"},
        {**DEVICE_HEADER, "alg": "HS512"},
        {**DEVICE_HEADER, "alg": "RS256"},
        {**DEVICE_HEADER, "typ": "JWT"},
        {**DEVICE_HEADER, "typ": "keyflock-assignment+jwt"},
        {**DEVICE_HEADER, "kid": "00000000"},
        {**DEVICE_HEADER, "kid": ["a"]},
        {**DEVICE_HEADER, "kid": None},
        {**DEVICE_HEADER, "b64": False, "crit": ["b64"]},
        {**DEVICE_HEADER, "jwk": {"kty": "oct", "k": "AA"}},
        {"kid": KEYS.current.id, "typ": "keyflock-device+jwt"},
        b"{",
        b"[" * 5_000,
        b"null",
        b'"HS256"',
        b"\xff\xfe",
        b'{"alg":"HS256","alg":"HS256","kid":"%b","typ":"keyflock-device+jwt"}' % KEYS.current.id.encode(),
        b'{"alg":"HS256","kid":"%b","typ":"keyflock-device+jwt","x":"%b"}'
        % (KEYS.current.id.encode(), b"y" * 5_000),
    ],
)
def test_another_header_is_refused_even_with_a_good_signature(header: object) -> None:
    assert code(signed(header, DEVICE_CLAIMS)) is ProblemCode.TOKEN_INVALID


@pytest.mark.parametrize("missing", ["iss", "aud", "exp", "sub", "pop"])
def test_a_device_token_without_a_needed_claim_is_refused(missing: str) -> None:
    claims = {name: value for name, value in DEVICE_CLAIMS.items() if name != missing}

    assert code(signed(DEVICE_HEADER, claims)) is ProblemCode.TOKEN_INVALID


@pytest.mark.parametrize(
    "missing",
    ["iss", "aud", "exp", "jti", "sub", "pop", "task", "round", "ver", "codec", "seed", "layout"],
)
def test_an_assignment_token_without_a_needed_claim_is_refused(missing: str) -> None:
    claims = {name: value for name, value in ASSIGNMENT_CLAIMS.items() if name != missing}

    assert assignment_code(signed(ASSIGNMENT_HEADER, claims)) is ProblemCode.ASSIGNMENT_TOKEN_INVALID


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("iss", "keyflick"),
        ("iss", ["keyflock"]),
        ("aud", "keyflock:assignment"),
        ("aud", ["keyflock:device"]),
        ("aud", None),
        ("exp", "1772370000"),
        ("exp", None),
        ("exp", True),
        ("exp", [1.0]),
        ("exp", 1.01e11),
        ("exp", -1.01e10),
        ("exp", 2**80),
        ("sub", 7),
        ("sub", None),
        ("sub", {"a": 1}),
        ("pop", 7),
        ("gen", "3"),
        ("gen", 3.5),
        ("gen", None),
        ("tier", "high"),
        ("tier", 1.5),
        ("tags", "beta"),
        ("tags", [1]),
        ("tags", {"beta": 1}),
        ("last", "yesterday"),
        ("last", 1e300),
    ],
)
def test_a_device_token_with_a_claim_of_another_type_is_refused(claim: str, value: object) -> None:
    assert code(signed(DEVICE_HEADER, {**DEVICE_CLAIMS, claim: value})) is ProblemCode.TOKEN_INVALID


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0x10", "1.", "01"])
@pytest.mark.parametrize("claim", ["exp", "last", "gen"])
def test_a_token_with_a_number_that_is_none_is_refused(claim: str, number: str) -> None:
    text = json.dumps({**DEVICE_CLAIMS, claim: "number"}).replace('"number"', number)

    assert code(signed(DEVICE_HEADER, text.encode())) is ProblemCode.TOKEN_INVALID


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"sub":"\xff"}',
        b'{"sub":"\\ud800"}',
        b"[" * 5_000,
        json.dumps(DEVICE_CLAIMS).encode() + b"{}",
        json.dumps(DEVICE_CLAIMS).encode() + b"\x00",
    ],
)
def test_a_payload_that_is_no_map_of_claims_is_refused(payload: bytes) -> None:
    assert code(signed(DEVICE_HEADER, payload)) is ProblemCode.TOKEN_INVALID


def test_a_payload_that_is_not_base64url_is_refused() -> None:
    header, payload, _ = DEVICES.issue(PHONE, NOW).split(".")

    for other in (payload + "!", "+/" + payload, payload[:-3], f"{payload}.{payload}", "A", "=" * 4):
        assert code(signed_text(f"{header}.{other}")) is ProblemCode.TOKEN_INVALID


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("aud", "keyflock:device"),
        ("jti", 1),
        ("task", None),
        ("round", ["r"]),
        ("ver", "7"),
        ("ver", 7.5),
        ("codec", "dense"),
        ("codec", [["codec", "dense"]]),
        ("net", 1),
        ("seed", "5"),
        ("seed", 5.5),
        ("layout", 7),
        ("layout", "not base64!"),
        ("layout", "AAA"),
        ("exp", 1e12),
    ],
)
def test_an_assignment_token_with_a_claim_of_another_type_is_refused(claim: str, value: object) -> None:
    claims = {**ASSIGNMENT_CLAIMS, claim: value}

    assert assignment_code(signed(ASSIGNMENT_HEADER, claims)) is ProblemCode.ASSIGNMENT_TOKEN_INVALID


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there a token is too short to be nested too deeply")
def test_a_codec_that_is_nested_without_end_is_refused() -> None:
    nested = '{"a":' + "[" * 2_000 + "]" * 2_000 + "}"
    text = json.dumps({**ASSIGNMENT_CLAIMS, "codec": "nested"}).replace('"nested"', nested)

    with pytest.raises(ApiError) as refused:
        ASSIGNMENTS.read(signed(ASSIGNMENT_HEADER, text.encode()), NOW)

    assert refused.value.code is ProblemCode.ASSIGNMENT_TOKEN_INVALID


def test_of_a_claim_that_is_there_twice_the_last_one_counts_and_its_type_is_checked() -> None:
    text = json.dumps(DEVICE_CLAIMS)[:-1]

    read = DEVICES.read(signed(DEVICE_HEADER, f'{text}, "gen": 4}}'.encode()), NOW)

    assert read.generation == 4
    assert code(signed(DEVICE_HEADER, f'{text}, "gen": "4"}}'.encode())) is ProblemCode.TOKEN_INVALID


def test_a_claim_that_is_not_known_is_ignored() -> None:
    assert DEVICES.read(signed(DEVICE_HEADER, {**DEVICE_CLAIMS, "new": [1, {"a": None}]}), NOW) == PHONE


def test_a_token_is_as_long_as_the_limit_and_no_longer() -> None:
    def filled(chars: int) -> str:
        return signed(DEVICE_HEADER, {**DEVICE_CLAIMS, "new": "x" * chars})

    chars = next(chars for chars in range(MAX_TOKEN_CHARS) if len(filled(chars)) >= MAX_TOKEN_CHARS)

    assert len(filled(chars)) == MAX_TOKEN_CHARS
    assert DEVICES.read(filled(chars), NOW) == PHONE
    assert code(filled(chars + 1)) is ProblemCode.TOKEN_INVALID


def test_the_latest_instant_that_a_token_can_name_is_compared_without_an_error() -> None:
    device = signed(DEVICE_HEADER, {**DEVICE_CLAIMS, "exp": 1e11, "last": -1e10})
    work = signed(ASSIGNMENT_HEADER, {**ASSIGNMENT_CLAIMS, "exp": 1e11})

    assert DEVICES.read(device, NOW).expires_at == datetime.fromtimestamp(1e11, UTC)
    assert not ASSIGNMENTS.has_expired(ASSIGNMENTS.read(work, NOW), NOW)
