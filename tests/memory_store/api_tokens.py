"""Operators' tokens in memory."""

from dataclasses import replace
from datetime import datetime

from tests.memory_store.rows import MemoryRows

from keyflock_server.audit.canonical_json import Document
from keyflock_server.audit.context import AuditContext
from keyflock_server.audit.entry import SubjectKind
from keyflock_server.storage.audit_documents import token_document
from keyflock_server.storage.errors import AlreadyExists
from keyflock_server.storage.operator_records import ApiTokenRecord


class MemoryApiTokenRepository:
    def __init__(self, rows: MemoryRows) -> None:
        self._rows = rows

    async def add(self, token: ApiTokenRecord, *, audit: AuditContext) -> None:
        if token.id in self._rows.api_tokens:
            raise AlreadyExists(token.id)
        with self._rows.log.audited(audit, SubjectKind.TOKEN, token.id, lambda: self._document(token.id)):
            self._rows.api_tokens[token.id] = token

    async def get(self, id_: str) -> ApiTokenRecord | None:
        return self._rows.api_tokens.get(id_)

    async def all(self) -> list[ApiTokenRecord]:
        return sorted(self._rows.api_tokens.values(), key=lambda token: (token.created_at, token.id))

    async def revoke(self, id_: str, at: datetime, *, audit: AuditContext) -> ApiTokenRecord | None:
        token = self._rows.api_tokens.get(id_)
        if token is not None and token.revoked_at is None:
            with self._rows.log.audited(audit, SubjectKind.TOKEN, id_, lambda: self._document(id_)):
                self._rows.api_tokens[id_] = replace(token, revoked_at=at)
        return self._rows.api_tokens.get(id_)

    def _document(self, id_: str) -> Document | None:
        token = self._rows.api_tokens.get(id_)
        return None if token is None else token_document(token)
