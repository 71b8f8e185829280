"""Operators' tokens in SQL."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.protocol.roles import Role
from keyflock_server.storage.audit_documents import token_document
from keyflock_server.storage.errors import AlreadyExists
from keyflock_server.storage.operator_records import ApiTokenRecord
from keyflock_server.storage.sql.audit import audited
from keyflock_server.storage.sql.rows import damaged_row
from keyflock_server.storage.sql.transactions import Transactions
from keyflock_server.storage.tables import api_tokens


class SqlApiTokenRepository:
    """Implements ``ApiTokenRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def add(self, token: ApiTokenRecord, *, audit: AuditContext) -> None:
        """Add a token; raises AlreadyExists if there is one of this id."""

        def transaction(connection: Connection) -> None:
            with audited(connection, audit, SubjectKind.TOKEN, token.id, _document):
                connection.execute(insert(api_tokens).values(asdict(token)))

        try:
            await self._transactions.run(transaction)
        except IntegrityError:
            raise AlreadyExists(token.id) from None

    async def get(self, id_: str) -> ApiTokenRecord | None:
        """Return the token of this id, or None."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(select(api_tokens).where(api_tokens.c.id == id_))).one_or_none()
        return None if row is None else _token(row)

    async def all(self) -> list[ApiTokenRecord]:
        """Return all tokens, oldest first."""
        async with self._reader.connect() as connection:
            rows = await connection.execute(
                select(api_tokens).order_by(api_tokens.c.created_at, api_tokens.c.id)
            )
        return [_token(row) for row in rows]

    async def revoke(self, id_: str, at: datetime, *, audit: AuditContext) -> ApiTokenRecord | None:
        """Revoke a token, and return it; one that is revoked stays as it is."""
        valid = (api_tokens.c.id == id_) & api_tokens.c.revoked_at.is_(None)

        def transaction(connection: Connection) -> ApiTokenRecord | None:
            with audited(connection, audit, SubjectKind.TOKEN, id_, _document):
                connection.execute(update(api_tokens).where(valid).values(revoked_at=at))
            return _locked(connection, id_)

        return await self._transactions.run(transaction)


def _locked(connection: Connection, id_: str) -> ApiTokenRecord | None:
    query = select(api_tokens).where(api_tokens.c.id == id_).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else _token(row)


def _document(connection: Connection, id_: str) -> Document | None:
    record = _locked(connection, id_)
    return None if record is None else token_document(record)


def _token(row: Row[Any]) -> ApiTokenRecord:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
    with damaged_row(f"token {row.id}"):
        return ApiTokenRecord(**columns | {"role": Role(row.role)})
