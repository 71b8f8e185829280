"""Operators' API tokens: the text ``kf_<id>_<secret>``, of which a server stores the id and a digest.

Half of an id is drawn, the other half is a keyed digest of the first. So a server knows without its database
that it never issued a text that somebody made up: only who has seen an id can make it look one up.

The secret has 192 random bits. Nobody finds it from its digest by trying, so the digest needs neither salt
nor a slow function.
"""

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

SECRET_BYTES: Final = 24
_HALF_BYTES: Final = 5
_TEXT: Final = re.compile(r"kf_([a-z2-7]{16})_([0-9a-f]{48})")
#: Compared with where there is no token, so that both take the same time.
_NO_DIGEST: Final = bytes(32)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token as its bearer has it."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """Return the text that calls carry."""
        return f"kf_{self.id}_{self.secret}"

    @property
    def digest(self) -> bytes:
        """Return the SHA-256 of the secret."""
        return hashlib.sha256(self.secret.encode("ascii")).digest()

    def is_proven_by(self, digest: bytes | None) -> bool:
        """Return whether ``digest`` is that of its secret, in a time that tells nothing; None is never."""
        is_equal = hmac.compare_digest(self.digest, _NO_DIGEST if digest is None else digest)
        return is_equal and digest is not None


class ApiTokens:
    """Makes and reads tokens.

    Args:
        key: The key of ids, at least 32 bytes; it is the same in all servers of an installation.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def new(self) -> ApiToken:
        """Return a new token, whose secret nobody can guess."""
        drawn = secrets.token_bytes(_HALF_BYTES)
        return ApiToken(_base32(drawn) + self._proof(drawn), secrets.token_hex(SECRET_BYTES))

    def parse(self, text: str) -> ApiToken | None:
        """Return the token of a text; None if no server of this installation can have issued it."""
        found = _TEXT.fullmatch(text)
        if found is None:
            return None
        id_ = found[1]
        half = len(id_) // 2
        proof = self._proof(base64.b32decode(id_[:half].upper()))
        return ApiToken(id_, found[2]) if hmac.compare_digest(proof, id_[half:]) else None

    def _proof(self, drawn: bytes) -> str:
        return _base32(hmac.digest(self._key, drawn, "sha256")[:_HALF_BYTES])


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().lower()
