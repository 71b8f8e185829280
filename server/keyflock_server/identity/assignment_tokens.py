"""Assignment tokens: a phone carries its assignment, signed, so that any replica can validate a report."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Final

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.signed_claims import TokenKind, sign_token, verify_token
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode

_KIND: Final = TokenKind(
    type="keyflock-assignment+jwt",
    audience="keyflock:assignment",
    noun="assignment",
    invalid_code=ProblemCode.ASSIGNMENT_TOKEN_INVALID,
)


class AssignmentTokens:
    """Issues and reads assignment tokens.

    Args:
        keys: The keys that sign and verify.
        leeway_s: How far the clocks of two replicas may differ.
    """

    def __init__(self, keys: SigningKeys, *, leeway_s: float = 5.0) -> None:
        self._keys = keys
        self.leeway_s = leeway_s

    def issue(self, claims: AssignmentClaims) -> str:
        """Return the token with these claims; the same claims give the same token."""
        payload = {
            "jti": claims.assignment,
            "sub": claims.device,
            "pop": claims.population,
            "task": claims.task,
            "round": claims.round,
            "ver": claims.model_version,
            "codec": claims.codec,
            "net": claims.network,
            "seed": claims.seed,
            "layout": base64.b64encode(claims.layout).decode(),
        }
        return sign_token(self._keys, _KIND, payload, expires_at=claims.expires_at)

    def read(self, token: str, now: datetime) -> AssignmentClaims:
        """Return the claims of an authentic token.

        Raises:
            ApiError: fault of the client; ``assignment_token_invalid``, or ``round_gone`` for an expired one,
                which cannot be refreshed: the phone must check in again.
        """
        claims = self.read_late(token)
        if self.has_expired(claims, now):
            raise ApiError(
                ProblemCode.ROUND_GONE, f"The assignment expired at {claims.expires_at:%Y-%m-%dT%H:%M:%SZ}."
            )
        return claims

    def has_expired(self, claims: AssignmentClaims, now: datetime) -> bool:
        """Return whether the assignment has expired, so that no new report of it is accepted."""
        return now >= claims.expires_at + timedelta(seconds=self.leeway_s)

    def read_late(self, token: str) -> AssignmentClaims:
        """Like ``read``, but accept an expired token: its phone may not know that its report was counted.

        Raises:
            ApiError: fault of the client; ``assignment_token_invalid``.
        """
        claims = verify_token(self._keys, _KIND, token)
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        return AssignmentClaims(
            assignment=AssignmentId(claims["jti"]),
            device=DeviceId(claims["sub"]),
            population=PopulationName(claims["pop"]),
            task=TaskName(claims["task"]),
            round=RoundId(claims["round"]),
            model_version=ModelVersion(claims["ver"]),
            codec=claims["codec"],
            network=claims.get("net", "unmetered"),
            seed=claims["seed"],
            layout=base64.b64decode(claims["layout"]),
            expires_at=expires_at,
        )
