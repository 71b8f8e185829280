"""Assignment tokens: a phone carries its own assignment, signed, so that any replica can judge a report."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Final

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.signed_claims import TokenKind, seal, unseal
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.problems import ProblemCode, Refused

_KIND: Final = TokenKind(type="keyflock-assignment+jwt", audience="keyflock:assignment", noun="assignment")


class AssignmentTokens:
    """Issues and reads assignment tokens.

    Args:
        keys: What signs and verifies.
        leeway_s: How far the clocks of two replicas may differ.
    """

    def __init__(self, keys: SigningKeys, *, leeway_s: float = 5.0) -> None:
        self._keys = keys
        self.leeway_s = leeway_s

    def issue(self, claims: AssignmentClaims) -> str:
        """The token that says ``claims``; the same claims give the same token."""
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
        return seal(self._keys, _KIND, payload, expires_at=claims.expires_at)

    def read(self, token: str, now: datetime) -> AssignmentClaims:
        """What an authentic token says.

        Raises:
            Refused: fault of the client; ``token_invalid``, or ``round_gone`` for an expired one: no refresh
                helps then, only the next check-in.
        """
        claims = self.read_late(token)
        if self.has_expired(claims, now):
            raise Refused(
                ProblemCode.ROUND_GONE, f"The assignment expired at {claims.expires_at:%Y-%m-%dT%H:%M:%SZ}."
            )
        return claims

    def has_expired(self, claims: AssignmentClaims, now: datetime) -> bool:
        """Whether it is too late for anything new of this assignment."""
        return now >= claims.expires_at + timedelta(seconds=self.leeway_s)

    def read_late(self, token: str) -> AssignmentClaims:
        """Like ``read``, and takes an expired one: its phone may not have heard that its report was counted.

        Raises:
            Refused: fault of the client; ``token_invalid``.
        """
        claims = unseal(self._keys, _KIND, token)
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
