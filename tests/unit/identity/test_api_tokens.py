"""Operators' tokens: long secrets, ids that only the installation's key makes, nothing shown by accident."""

import hashlib
import re
from collections.abc import Callable

import pytest

from keyflock_server.identity.api_tokens import ApiToken, ApiTokens

KEY = b"k" * 32


def test_a_token_is_read_back_from_its_text() -> None:
    tokens = ApiTokens(KEY)
    token = tokens.new()

    assert tokens.parse(token.text) == token
    assert re.fullmatch(r"kf_[a-z2-7]{16}_[0-9a-f]{48}", token.text)


def test_a_secret_has_at_least_160_bits_and_no_two_are_alike() -> None:
    made = [ApiTokens(KEY).new() for _ in range(200)]

    assert {len(token.secret) * 4 for token in made} == {192}
    assert len({token.secret for token in made}) == len({token.id for token in made}) == 200


def test_an_id_that_another_key_has_made_was_never_issued() -> None:
    strange = ApiTokens(b"x" * 32).new()

    assert ApiTokens(KEY).parse(strange.text) is None


def test_an_id_that_somebody_made_up_was_never_issued() -> None:
    tokens = ApiTokens(KEY)
    token = tokens.new()
    replaced = [
        token.id[:at] + ("a" if token.id[at] != "a" else "b") + token.id[at + 1 :] for at in range(16)
    ]

    assert [tokens.parse(ApiToken(one, token.secret).text) for one in replaced] == [None] * 16


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text + "\n",
        lambda text: text.upper(),
        lambda text: "xx" + text[2:],
        lambda text: text.replace("_", "-"),
        lambda _: "",
        lambda _: "kf__",
        lambda text: text[:-1] + "\u0660",
        lambda text: text[:-1] + "\udcff",
    ],
)
def test_a_text_of_another_form_is_no_token(spoil: Callable[[str], str]) -> None:
    tokens = ApiTokens(KEY)

    assert tokens.parse(spoil(tokens.new().text)) is None


def test_only_the_digest_of_its_secret_proves_a_token() -> None:
    token = ApiTokens(KEY).new()

    assert token.digest == hashlib.sha256(token.secret.encode()).digest()
    assert token.is_proven_by(token.digest)
    assert not token.is_proven_by(ApiTokens(KEY).new().digest)
    assert not token.is_proven_by(None)


def test_a_printed_token_shows_no_secret() -> None:
    token = ApiTokens(KEY).new()

    assert token.secret not in f"{token} {token!r} {vars(ApiTokens)}"
