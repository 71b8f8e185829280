"""Bearer tokens of phones: short-lived, refreshable for a while after they expire."""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal

import msgspec

from keyflock_server.identity.claims import DeviceIdentity
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.signed_claims import ISSUER, EpochSeconds, TokenClaims, TokenKind, TokenSigner
from keyflock_server.protocol.identifiers import DeviceId, PopulationName
from keyflock_server.protocol.problems import ApiError, ProblemCode

_AUDIENCE: Final = "keyflock:device"


class _DeviceClaims(TokenClaims, frozen=True, kw_only=True):
    """What a device token says; older ones name no generation, or do not describe the device."""

    aud: Literal["keyflock:device"]
    sub: DeviceId
    pop: PopulationName
    gen: int = 0
    #: None: the token does not describe the device.
    tier: int | None = None
    tags: tuple[str, ...] = ()
    last: EpochSeconds | None = None


_KIND: Final[TokenKind[_DeviceClaims]] = TokenKind("keyflock-device+jwt", _DeviceClaims, noun="device")


class DeviceTokens:
    """Issues and reads device tokens.

    Args:
        keys: The keys that sign and verify.
        ttl_s: Lifetime of a token.
        leeway_s: How far the clocks of two replicas may differ.
        refresh_grace_s: How long after its expiry a token may still be exchanged for a new one, so that a
            phone that was in a drawer keeps its identity (and its separation between contributions).
    """

    def __init__(
        self,
        keys: SigningKeys,
        ttl_s: float,
        *,
        leeway_s: float = 5.0,
        refresh_grace_s: float = 30 * 86_400.0,
    ) -> None:
        self.ttl_s = ttl_s
        self._signer = TokenSigner(keys, _KIND)
        self._leeway_s = leeway_s
        self._refresh_grace_s = max(leeway_s, refresh_grace_s)

    def issue(self, identity: DeviceIdentity, now: datetime) -> str:
        """Return a token for this device that expires ``ttl_s`` from now."""
        claims = _DeviceClaims(
            iss=ISSUER,
            aud=_AUDIENCE,
            exp=(now + timedelta(seconds=self.ttl_s)).timestamp(),
            sub=identity.device,
            pop=identity.population,
            gen=identity.generation,
        )
        if identity.is_described:
            contributed_at = identity.last_contributed_at
            last = None if contributed_at is None else contributed_at.timestamp()
            claims = msgspec.structs.replace(claims, tier=identity.tier, tags=identity.tags, last=last)
        return self._signer.sign(claims)

    def read(self, token: str, now: datetime) -> DeviceIdentity:
        """Return the identity in a token.

        Raises:
            ApiError: fault of the client; ``token_invalid``, ``token_expired`` (refresh it), or
                ``enrolment_expired`` (it is too late for that).
        """
        return self._read(token, now, self._leeway_s)

    def read_for_refresh(self, token: str, now: datetime) -> DeviceIdentity:
        """Like ``read``, but accept a token that expired less than ``refresh_grace_s`` ago."""
        return self._read(token, now, self._refresh_grace_s)

    def _read(self, token: str, now: datetime, grace_s: float) -> DeviceIdentity:
        claims = self._signer.verify(token)
        expires_at = datetime.fromtimestamp(claims.exp, UTC)
        late_s = (now - expires_at).total_seconds()
        if late_s >= grace_s:
            can_refresh = late_s < self._refresh_grace_s
            code = ProblemCode.TOKEN_EXPIRED if can_refresh else ProblemCode.ENROLMENT_EXPIRED
            raise ApiError(code, f"The device token expired at {expires_at:%Y-%m-%dT%H:%M:%SZ}.")
        return DeviceIdentity(
            claims.sub,
            claims.pop,
            claims.gen,
            expires_at,
            is_described=claims.tier is not None,
            tier=claims.tier or 0,
            tags=claims.tags,
            last_contributed_at=None if claims.last is None else datetime.fromtimestamp(claims.last, UTC),
        )
