"""Operators' messages and calls about tokens, and about the operator who asks."""

from datetime import datetime
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from keyflock_server.protocol.fields import Name
from keyflock_server.protocol.operator.call import NoBody, OperatorCall, Query, Reason, ReasonOrder
from keyflock_server.protocol.operator.pages import PageQuery
from keyflock_server.protocol.roles import Role

#: The shortest and the longest lifetime of a token that expires.
MIN_LIFETIME_S: Final = 60.0
MAX_LIFETIME_S: Final = 3_660 * 86_400.0


class TokenOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order to create a token."""

    #: The name by which the audit log knows its bearer; an operator may have several tokens.
    name: Name
    role: Role
    #: After so many seconds the token is void; null: when somebody revokes it.
    lifetime_s: Annotated[float, Meta(ge=MIN_LIFETIME_S, le=MAX_LIFETIME_S)] | None = None
    reason: Reason


class TokenView(Struct, frozen=True, kw_only=True):
    """A token, without its secret."""

    id: str
    name: str
    role: Role
    state: Literal["active", "expired", "revoked"]
    created_at: datetime
    #: The name of the operator who created it.
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class TokenList(Struct, frozen=True, kw_only=True):
    """A page of tokens, oldest first; those that are void stay in the list."""

    items: list[TokenView]
    #: Where the next page begins; null on the last one.
    next: str | None


class CreatedToken(Struct, frozen=True, kw_only=True):
    """A token that was created, with its text: it is shown this once, and stored nowhere."""

    token: TokenView
    text: str

    def __repr__(self) -> str:
        """Return a text without the secret."""
        return f"CreatedToken({self.token.id})"


class OperatorView(Struct, frozen=True, kw_only=True):
    """The operator whose token the call carries."""

    name: str
    role: Role


TOKENS: Final = OperatorCall(
    "tokens",
    "GET",
    "/admin/v1/tokens",
    Role.ADMIN,
    PageQuery,
    NoBody,
    TokenList,
    "List operators' tokens, oldest first.",
)
CREATE_TOKEN: Final = OperatorCall(
    "create_token",
    "POST",
    "/admin/v1/tokens",
    Role.ADMIN,
    Query,
    TokenOrder,
    CreatedToken,
    "Create a token for an operator; the answer alone has its text.",
    status=201,
)
REVOKE_TOKEN: Final = OperatorCall(
    "revoke_token",
    "POST",
    "/admin/v1/tokens/{token_id}/revoke",
    Role.ADMIN,
    Query,
    ReasonOrder,
    TokenView,
    "Make a token void for good, within two seconds in all servers; open streams of events end with it.",
)
WHO_AM_I: Final = OperatorCall(
    "who_am_i",
    "GET",
    "/admin/v1/operator",
    Role.VIEWER,
    Query,
    NoBody,
    OperatorView,
    "Say whose token the call carries, and which role it has.",
)

CALLS: Final = (TOKENS, CREATE_TOKEN, REVOKE_TOKEN, WHO_AM_I)
