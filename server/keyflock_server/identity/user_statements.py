"""Statements of the app's backend about the name of a phone's user: JSON web tokens.

Source: RFC 7519; RFC 8725 (one algorithm per key, audience, expiry).
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keyflock_server.identity.keys import KeyFileError

#: The value that a statement must have in its claim ``aud``.
AUDIENCE: Final = "keyflock:user"
_MIN_RSA_BITS: Final = 2_048
_LEEWAY: Final = timedelta(seconds=5)
_BLOCK: Final = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", re.DOTALL)

_PublicKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey


@dataclass(frozen=True, slots=True)
class UserKey:
    """One public key of the app's backend, and the only algorithm that it is used with."""

    key: _PublicKey
    algorithm: str


def read_user_keys(path: Path) -> tuple[UserKey, ...]:
    """Return the public keys of a PEM file, which may hold several during a key rotation.

    Raises:
        KeyFileError: fault of the operator; there is no such file, or it holds something other than public
            keys of Ed25519, P-256, or RSA of 2,048 bits or more.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"The user keys in {path} cannot be read: {error.strerror}.") from None
    blocks = _BLOCK.findall(text)
    if not blocks:
        raise KeyFileError(f"{path} holds no public key in PEM form.")
    return tuple(_key(path, number, block) for number, block in enumerate(blocks, start=1))


def verified_user_name(keys: tuple[UserKey, ...], statement: str, now: datetime) -> str | None:
    """Return the user's name in an authentic statement; None if it is not authentic or has expired."""
    if not statement.isascii():
        return None
    for one in keys:
        try:
            claims = jwt.decode(
                statement,
                one.key,
                algorithms=[one.algorithm],
                audience=AUDIENCE,
                # The time is checked below.
                options={
                    "require": ["sub", "exp", "aud"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            expires_at = datetime.fromtimestamp(float(claims["exp"]), UTC)
        # A header of thousands of brackets ends the JSON parser with a RecursionError.
        except (jwt.InvalidTokenError, RecursionError, ValueError, TypeError, OverflowError):
            continue
        name = claims["sub"]
        return name if isinstance(name, str) and name and now < expires_at + _LEEWAY else None
    return None


def _key(path: Path, number: int, block: bytes) -> UserKey:
    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyFileError(f"{path}, key {number}: no public key in PEM form.") from None
    match key:
        case Ed25519PublicKey():
            return UserKey(key, "EdDSA")
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return UserKey(key, "ES256")
        case RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
            return UserKey(key, "RS256")
        case _:
            raise KeyFileError(
                f"{path}, key {number}: Ed25519, P-256, or RSA of at least {_MIN_RSA_BITS} bits is taken."
            )
