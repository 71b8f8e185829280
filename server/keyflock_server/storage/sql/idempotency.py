"""Operators' idempotency keys in SQL."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from keyflock_server.storage.operator_records import IdempotencyRecord
from keyflock_server.storage.sql.transactions import Transactions, rows_changed
from keyflock_server.storage.tables import idempotency_keys

_KEYS = idempotency_keys.c


class SqlIdempotencyRepository:
    """Implements ``IdempotencyRepository`` in SQL."""

    def __init__(self, reader: AsyncEngine, transactions: Transactions) -> None:
        self._transactions = transactions
        self._reader = reader

    async def claim(self, record: IdempotencyRecord, abandoned_before: datetime) -> IdempotencyRecord | None:
        """Store the key of a creation that begins, unless it is known."""
        mine = (_KEYS.operator == record.operator) & (_KEYS.key == record.key)
        is_abandoned = mine & (_KEYS.status == 0) & (_KEYS.created_at < abandoned_before)

        def transaction(connection: Connection) -> None:
            connection.execute(delete(idempotency_keys).where(is_abandoned))
            connection.execute(insert(idempotency_keys).values(asdict(record)))

        while True:
            try:
                await self._transactions.run(transaction)
            except IntegrityError:
                async with self._reader.connect() as connection:
                    row = (await connection.execute(select(idempotency_keys).where(mine))).one_or_none()
                if row is not None:
                    return IdempotencyRecord(**row._mapping)  # noqa: SLF001 - the documented name
                # It was released meanwhile.
            else:
                return None

    async def complete(self, operator: str, key: str, status: int, body: bytes) -> None:
        """Store the answer of the creation."""
        mine = (_KEYS.operator == operator) & (_KEYS.key == key)
        change = update(idempotency_keys).where(mine).values(status=status, body=body)
        await self._transactions.run(rows_changed, change)

    async def release(self, operator: str, key: str) -> None:
        """Delete the key of a creation that was refused."""
        mine = (_KEYS.operator == operator) & (_KEYS.key == key) & (_KEYS.status == 0)
        await self._transactions.run(rows_changed, delete(idempotency_keys).where(mine))

    async def prune(self, created_before: datetime, limit: int) -> int:
        """Delete at most ``limit`` keys that were claimed before this instant; return their number."""
        old = select(_KEYS.operator, _KEYS.key).where(_KEYS.created_at < created_before).limit(limit)

        def transaction(connection: Connection) -> int:
            found = connection.execute(old.order_by(_KEYS.operator, _KEYS.key).with_for_update()).all()
            if found:
                named = [(_KEYS.operator == operator) & (_KEYS.key == key) for operator, key in found]
                connection.execute(delete(idempotency_keys).where(or_(*named)))
            return len(found)

        return await self._transactions.run(transaction)
