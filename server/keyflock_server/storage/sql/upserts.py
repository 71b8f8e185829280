"""Inserts that update a row that is there already: both dialects have them, each in a class of its own."""

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def insert_or_update(connection: Connection, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """Return an insert into this table, with the method ``on_conflict_do_update``."""
    # Only the dialect in use is imported: PostgreSQL's is large.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)
