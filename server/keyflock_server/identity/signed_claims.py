"""Signed claims that phones carry: JSON web tokens with HMAC-SHA-256.

A token states its kind three times (header ``typ``, claim ``aud``, and the fields themselves), so one kind is
never accepted as another. Expiry is checked by the caller against its ``now``, never the machine's clock.

Source: RFC 7519; RFC 8725 (explicit typing, fixed algorithm, audience).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jwt

from keyflock_server.identity.keys import SigningKeys
from keyflock_server.protocol.problems import ApiError, ProblemCode

ALGORITHM: Final = "HS256"
ISSUER: Final = "keyflock"
#: Longer tokens cannot be ours: aiohttp accepts header fields of at most 8,190 bytes.
MAX_TOKEN_CHARS: Final = 8_192


@dataclass(frozen=True, slots=True)
class TokenKind:
    """The properties of one kind of token, and its name in error messages."""

    type: str
    audience: str
    noun: str
    #: The code for a token that this server did not sign as this kind.
    invalid_code: ProblemCode = ProblemCode.TOKEN_INVALID


def sign_token(keys: SigningKeys, kind: TokenKind, claims: Mapping[str, Any], *, expires_at: datetime) -> str:
    """Return a signed token with these claims that expires at ``expires_at``."""
    payload = {**claims, "iss": ISSUER, "aud": kind.audience, "exp": expires_at.timestamp()}
    headers = {"kid": keys.current.id, "typ": kind.type}
    return jwt.encode(payload, keys.current.secret, algorithm=ALGORITHM, headers=headers)


def verify_token(keys: SigningKeys, kind: TokenKind, token: str) -> dict[str, Any]:
    """Return the claims of an authentic token, whether or not it has expired.

    Raises:
        ApiError: fault of the client; the kind's ``invalid_code`` if this server did not sign it so.
    """
    if not token.isascii() or len(token) > MAX_TOKEN_CHARS:
        raise _invalid(kind)
    try:
        header = jwt.get_unverified_header(token)
        key = keys.find(header.get("kid"))
        if key is None or header.get("typ") != kind.type:
            raise _invalid(kind)
        return jwt.decode(
            token,
            key.secret,
            algorithms=[ALGORITHM],
            audience=kind.audience,
            issuer=ISSUER,
            # The caller checks the time.
            options={
                "require": ["exp", "aud", "iss"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    # A header of thousands of brackets ends the JSON parser with a RecursionError.
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        raise _invalid(kind) from None


def _invalid(kind: TokenKind) -> ApiError:
    return ApiError(kind.invalid_code, f"The {kind.noun} token is not one that this server signed.")
