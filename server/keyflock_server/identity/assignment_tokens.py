"""Assignment tokens: a phone carries its assignment, signed, so that any replica can validate a report."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from keyflock_server.identity.claims import AssignmentClaims
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.signed_claims import ISSUER, TokenClaims, TokenKind, TokenSigner
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode

_AUDIENCE: Final = "keyflock:assignment"


class _AssignmentClaims(TokenClaims, frozen=True, kw_only=True):
    """What an assignment token says. Those of earlier releases name no network."""

    aud: Literal["keyflock:assignment"]
    jti: AssignmentId
    sub: DeviceId
    pop: PopulationName
    task: TaskName
    round: RoundId
    ver: ModelVersion
    codec: dict[str, Any]
    net: str = "unmetered"
    seed: int
    layout: bytes


_KIND: Final[TokenKind[_AssignmentClaims]] = TokenKind(
    "keyflock-assignment+jwt",
    _AssignmentClaims,
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
        self._signer = TokenSigner(keys, _KIND)
        self.leeway_s = leeway_s

    def issue(self, claims: AssignmentClaims) -> str:
        """Return the token with these claims; the same claims give the same token."""
        return self._signer.sign(
            _AssignmentClaims(
                iss=ISSUER,
                aud=_AUDIENCE,
                exp=claims.expires_at.timestamp(),
                jti=claims.assignment,
                sub=claims.device,
                pop=claims.population,
                task=claims.task,
                round=claims.round,
                ver=claims.model_version,
                codec=claims.codec,
                net=claims.network,
                seed=claims.seed,
                layout=claims.layout,
            )
        )

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
        claims = self._signer.verify(token)
        return AssignmentClaims(
            assignment=claims.jti,
            device=claims.sub,
            population=claims.pop,
            task=claims.task,
            round=claims.round,
            model_version=claims.ver,
            codec=claims.codec,
            network=claims.net,
            seed=claims.seed,
            layout=claims.layout,
            expires_at=datetime.fromtimestamp(claims.exp, UTC),
        )
