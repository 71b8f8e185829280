"""Rows of populations in SQL: whether one is there, for transactions that add to it."""

from typing import Final

from sqlalchemy import ColumnElement, Connection, select

from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.errors import PopulationGone
from keyflock_server.storage.tables import populations

#: The row of a deleted population stays, so that its id is not used again.
IS_THERE: Final[ColumnElement[bool]] = populations.c.deleted_at.is_(None)


def require_population(connection: Connection, name: PopulationName) -> None:
    """Keep a population from being deleted until the caller's transaction ends; raises PopulationGone."""
    its_row = select(populations.c.name).where(populations.c.name == name, IS_THERE)
    if connection.execute(its_row.with_for_update(read=True, key_share=True)).one_or_none() is None:
        raise PopulationGone(name)
