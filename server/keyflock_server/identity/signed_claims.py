"""Signed claims that phones carry: JSON web tokens with HMAC-SHA-256.

A token states its kind three times (header ``typ``, claim ``aud``, and the fields themselves), so one kind is
never accepted as another. Expiry is checked by the caller against its ``now``, never the machine's clock.

Only this server's tokens are read, and it writes each header in one way. So a header is not parsed: it must
be that text, for one of the keys, which leaves no choice of an algorithm to whoever sends it. Nothing of a
token is parsed before its signature is verified.

Source: RFC 7519; RFC 7515 (compact form); RFC 8725 (explicit typing, fixed algorithm, audience).
"""

import binascii
import hmac
import json
from dataclasses import dataclass
from typing import Annotated, Final, Generic, Literal, TypeVar

import msgspec

from keyflock_server.identity.keys import SigningKey, SigningKeys
from keyflock_server.protocol.problems import ApiError, ProblemCode

ISSUER: Final = "keyflock"
#: Longer tokens cannot be ours: aiohttp accepts header fields of at most 8,190 bytes.
MAX_TOKEN_CHARS: Final = 8_192

#: Seconds since 1970 that every ``datetime`` can hold, with room for a leeway.
EpochSeconds = Annotated[float, msgspec.Meta(ge=-1e10, le=1e11)]

_FROM_BASE64URL: Final = bytes.maketrans(b"-_", b"+/")
_TO_BASE64URL: Final = bytes.maketrans(b"+/", b"-_")


class TokenClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims that every token has; each kind adds its own, and its only value of ``aud``."""

    iss: Literal["keyflock"]
    aud: str
    #: When the token expires.
    exp: EpochSeconds


C = TypeVar("C", bound=TokenClaims)


@dataclass(frozen=True, slots=True)
class TokenKind(Generic[C]):
    """The properties of one kind of token, and its name in error messages."""

    #: The header ``typ`` (RFC 8725, 3.11).
    header_type: str
    claims: type[C]
    noun: str
    #: The code for a token that this server did not sign as this kind.
    invalid_code: ProblemCode = ProblemCode.TOKEN_INVALID


class TokenSigner(Generic[C]):
    """Signs and verifies the tokens of one kind.

    Args:
        keys: The keys that sign and verify.
        kind: The kind of token.
    """

    def __init__(self, keys: SigningKeys, kind: TokenKind[C]) -> None:
        self._kind = kind
        self._header = _header(keys.current, kind.header_type)
        #: Each key, made ready to sign, by the only header that a token of this kind has under it.
        self._keys = {
            _header(key, kind.header_type): hmac.new(key.secret, digestmod="sha256")
            for key in (*reversed(keys.retired), keys.current)
        }
        self._encoder = msgspec.json.Encoder()
        self._decoder: msgspec.json.Decoder[C] = msgspec.json.Decoder(kind.claims)

    def sign(self, claims: C) -> str:
        """Return a token with these claims; the same claims give the same token."""
        signed = self._header + b"." + _base64url(self._encoder.encode(claims))
        return (signed + b"." + _signature(self._keys[self._header], signed)).decode()

    def verify(self, token: str) -> C:
        """Return the claims of an authentic token, whether or not it has expired.

        Raises:
            ApiError: fault of the client; the kind's ``invalid_code`` if this server did not sign it so.
        """
        if len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise self._invalid()
        signed, _, signature = token.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        key = self._keys.get(header)
        if key is None or not hmac.compare_digest(_signature(key, signed), signature):
            raise self._invalid()
        try:
            return self._decoder.decode(_from_base64url(payload))
        except (msgspec.MsgspecError, RecursionError, ValueError):
            raise self._invalid() from None

    def _invalid(self) -> ApiError:
        return ApiError(
            self._kind.invalid_code, f"The {self._kind.noun} token is not one that this server signed."
        )


def _header(key: SigningKey, token_type: str) -> bytes:
    header = {"alg": "HS256", "kid": key.id, "typ": token_type}
    return _base64url(json.dumps(header, separators=(",", ":")).encode())


def _signature(key: hmac.HMAC, signed: bytes) -> bytes:
    mac = key.copy()  # takes two thirds of the time that the key itself would
    mac.update(signed)
    return _base64url(mac.digest())


def _base64url(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_TO_BASE64URL).rstrip(b"=")


def _from_base64url(text: bytes) -> bytes:
    padded = text.translate(_FROM_BASE64URL) + b"=" * (-len(text) % 4)
    return binascii.a2b_base64(padded, strict_mode=True)
