"""The interface to operators' tokens."""

from datetime import datetime
from typing import Protocol

from keyflock_server.audit.context import AuditContext
from keyflock_server.storage.operator_records import ApiTokenRecord


class ApiTokenRepository(Protocol):
    """Stores operators' tokens, as digests of their secrets."""

    async def add(self, token: ApiTokenRecord, *, audit: AuditContext) -> None:
        """Add a token; raises AlreadyExists if there is one of this id."""
        ...

    async def get(self, id_: str) -> ApiTokenRecord | None:
        """Return the token of this id, or None."""
        ...

    async def all(self) -> list[ApiTokenRecord]:
        """Return all tokens, the revoked ones too, oldest first."""
        ...

    async def revoke(self, id_: str, at: datetime, *, audit: AuditContext) -> ApiTokenRecord | None:
        """Revoke a token, and return it; one that is revoked stays as it is. None if there is none."""
        ...
