"""Who may be named as a user: whoever proves it, and what the store calls them."""

import base64
import hashlib
import secrets
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyflock_server.identity.keys import KeyFileError
from keyflock_server.identity.user_statements import read_user_keys
from keyflock_server.identity.users import Users
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode

NOW = datetime(2026, 3, 1, tzinfo=UTC)
EN, DE = PopulationName("en"), PopulationName("de")
KEY = b"o" * 32
ANN = "vT0hJ3qkX2m9sY8bQw5Zrg"
WEAK = rsa.generate_private_key(public_exponent=65_537, key_size=1_024)  # noqa: S505 - it is refused
BACKEND = Ed25519PrivateKey.from_private_bytes(b"b" * 32)


def pem(key: Any) -> bytes:  # noqa: ANN401 - a private key of any kind
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def keys_in(folder: Path, *blocks: bytes) -> Path:
    path = folder / "user_keys.pem"
    path.write_bytes(b"".join(blocks))
    return path


def statement(key: Any = BACKEND, algorithm: str = "EdDSA", **claims: Any) -> str:  # noqa: ANN401 - as PyJWT
    payload = {"sub": "ann", "aud": "keyflock:user", "exp": NOW + timedelta(minutes=5)} | claims
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, key, algorithm=algorithm)


@pytest.fixture
def backed(tmp_path: Path) -> Users:
    """A server that was given the public key of the app's backend."""
    return Users(KEY, read_user_keys(keys_in(tmp_path, pem(BACKEND))))


def refusal(users: Users, text: str) -> ApiError:
    with pytest.raises(ApiError) as refused:
        users.authenticate(text, NOW)
    return refused.value


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    "name",
    [
        "a",
        "alice",
        "alice@example.com",
        "alexander.hamilton.the.first@example.com",
        "+49 171 1234567",
        "00491711234567004917112345670049",
        "AliceJohnsonFromSpringfield",
        "Alice1984LivesInParis2020",
        "correct-Horse-battery-staple",
        "Abcdefghijklmnopqrstuvwxyz0123",
        "0123456789abcdef0123456789abcdef",
        "vT0hJ3qkX2mvT0hJ3qkX2mvT0hJ3qkX2m",
        "deadbeefdeadbeefdeadbeefdeadbeef",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "123e4567-e89b-42d3-a456-426614174000",
        "123E4567-e89B-42D3-a456-426614174000",
        "{123e4567-e89b-42d3-a456-426614174000}",
        ANN[:-1],
        ANN + "==",
        ANN.lower(),
        ANN.replace("T", "\u00e9"),
        f" {ANN}",
        f"{ANN}\n",
        "x" * 4_096,
        "\x00" * 32,
        "a.b.c",
        base64.urlsafe_b64encode(b"alice@example.com").decode().rstrip("="),
        base64.urlsafe_b64encode(b"alice@example.com\n").decode().rstrip("="),
        base64.urlsafe_b64encode(b"+49 171 123456789").decode().rstrip("="),
        base64.urlsafe_b64encode("J\u00fcrgen Gr\u00f6\u00dfmann".encode()).decode().rstrip("="),
        b"alice@example.com".hex(),
        b"ALICE@EXAMPLE.COM".hex().upper(),
    ],
)
def test_what_is_no_secret_names_no_user_and_is_not_repeated(name: str) -> None:
    refused = refusal(Users(KEY), name)

    assert refused.code is ProblemCode.USER_NOT_PROVEN
    assert "128 random bits" in refused.detail
    assert len(name) < 3 or name not in refused.detail


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    "secret",
    [ANN, "9f86d081884c7d659a2feaa0c55ad015", "9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15"],
)
def test_128_random_bits_name_a_user(secret: str) -> None:
    users = Users(KEY)

    digest = users.digest(EN, users.authenticate(secret, NOW))

    assert len(digest) == 64
    assert secret not in digest
    assert digest != hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in repr(users.authenticate(secret, NOW))


@pytest.mark.fault("D4")
def test_what_generators_of_128_bits_give_is_taken() -> None:
    users = Users(KEY)

    # A false alarm in ten thousand draws has a chance below 1 in 10 at the stated rate of 1 in 100,000.
    refused = 0
    for _ in range(5_000):
        for secret in (secrets.token_urlsafe(16), secrets.token_hex(16)):
            try:
                users.authenticate(secret, NOW)
            except ApiError:
                refused += 1
    assert refused <= 2


@pytest.mark.fault("D4")
def test_no_uuid_is_a_secret_however_it_is_written() -> None:
    for _ in range(100):
        assert refusal(Users(KEY), str(uuid.uuid4())).code is ProblemCode.USER_NOT_PROVEN


@pytest.mark.fault("D2")
def test_the_stored_digest_sent_as_a_secret_is_another_user() -> None:
    users = Users(KEY)
    stored = users.digest(EN, users.authenticate(ANN, NOW))

    thief = users.digest(EN, users.authenticate(stored, NOW))

    assert thief != stored


@pytest.mark.fault("D2")
def test_a_user_has_another_digest_in_each_population_and_under_each_key() -> None:
    users, others = Users(KEY), Users(b"p" * 32)

    digests = {one.digest(name, one.authenticate(ANN, NOW)) for one in (users, others) for name in (EN, DE)}

    assert len(digests) == 4


@pytest.mark.fault("D4")
def test_a_statement_of_the_backend_names_a_user(backed: Users) -> None:
    ann, again = backed.authenticate(statement(), NOW), backed.authenticate(statement(jti="another"), NOW)
    bob = backed.authenticate(statement(sub="bob"), NOW)

    assert backed.digest(EN, ann) == backed.digest(EN, again) != backed.digest(EN, bob)
    assert "ann" not in repr(ann)


@pytest.mark.fault("D4")
def test_who_only_knows_the_stated_name_is_another_user(backed: Users) -> None:
    stated = backed.digest(EN, backed.authenticate(statement(sub=ANN), NOW))

    claimed = Users(KEY).digest(EN, Users(KEY).authenticate(ANN, NOW))

    assert claimed != stated
    assert not backed.is_same(EN, stated, ANN, NOW)
    assert backed.is_same(EN, stated, statement(sub=ANN), NOW)


@pytest.mark.fault("D4")
@pytest.mark.parametrize(
    "text",
    [
        ANN,
        "",
        "a.b.c",
        statement(Ed25519PrivateKey.from_private_bytes(b"c" * 32)),
        statement(b"k" * 32, "HS256"),
        statement(pem(BACKEND).hex(), "HS256"),
        statement(aud="keyflock:device"),
        statement(aud=None),
        statement(exp=None),
        statement(exp=NOW - timedelta(seconds=6)),
        statement(exp=1e40),
        statement(sub=None),
        statement(sub=""),
        statement("", "none"),
        statement()[:-4] + "AAAA",
        "\u00e9" + statement(),
    ],
)
def test_anything_but_a_good_statement_is_refused_where_statements_are_asked_for(
    backed: Users, text: str
) -> None:
    refused = refusal(backed, text)

    assert refused.code is ProblemCode.USER_NOT_PROVEN
    assert "statement" in refused.detail
    assert not text or text not in refused.detail


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (rsa.generate_private_key(public_exponent=65_537, key_size=2_048), "RS256"),
    ],
    ids=["P-256", "RSA"],
)
def test_each_kind_of_key_is_used_with_its_own_algorithm_and_beside_others(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str
) -> None:
    users = Users(KEY, read_user_keys(keys_in(tmp_path, pem(BACKEND), pem(key))))

    by_one, by_other = (
        users.authenticate(statement(), NOW),
        users.authenticate(statement(key, algorithm), NOW),
    )

    assert by_one == by_other


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "key 1: no public key"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "key 1: Ed25519, P-256, or RSA"),
        (pem(WEAK), "at least 2048 bits"),
    ],
    ids=["empty", "broken", "curve", "short"],
)
def test_a_file_without_good_keys_is_the_operators_fault(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(KeyFileError, match=reason):
        read_user_keys(keys_in(tmp_path, content))


def test_a_file_of_keys_that_is_not_there_is_the_operators_fault(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_user_keys(tmp_path / "nothing.pem")


@pytest.mark.fault("D6")
def test_a_user_is_remembered_by_what_named_it_and_by_nothing_else(backed: Users) -> None:
    by_secret = Users(KEY)
    known = by_secret.digest(EN, by_secret.authenticate(ANN, NOW))

    assert by_secret.is_same(EN, known, ANN, NOW)
    # The same user still, where the operator asks for statements by now.
    assert backed.is_same(EN, known, ANN, NOW)
    assert backed.authenticate_stored(ANN, NOW) == by_secret.authenticate(ANN, NOW)
    for wrong in (None, "", ANN[::-1], known, statement(), "\udcff"):
        assert not backed.is_same(EN, known, wrong, NOW)
    for none in (None, "", "alice@example.com", "\udcff"):
        with pytest.raises(ApiError) as refused:
            by_secret.authenticate_stored(none, NOW)
        assert refused.value.code is ProblemCode.USER_NOT_PROVEN
