"""Rows of populations in SQL: whether one is there, what it says, and how it is locked."""

from dataclasses import fields
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, select

from keyflock_server.audit.canonical_json import Document
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.storage.audit_documents import population_document
from keyflock_server.storage.errors import PopulationGone
from keyflock_server.storage.records import PopulationRecord
from keyflock_server.storage.tables import population_names, populations, versions

#: The row of a deleted population stays, so that its id is not used again.
IS_THERE: Final[ColumnElement[bool]] = populations.c.deleted_at.is_(None)
#: The columns of a ``PopulationRecord``.
POPULATION_COLUMNS: Final = tuple(populations.c[field.name] for field in fields(PopulationRecord))


def require_population(connection: Connection, name: PopulationName) -> None:
    """Keep a population from being deleted until the caller's transaction ends; raises PopulationGone."""
    its_row = select(populations.c.name).where(populations.c.name == name, IS_THERE)
    if connection.execute(its_row.with_for_update(read=True, key_share=True)).one_or_none() is None:
        raise PopulationGone(name)


def lock_population(connection: Connection, name: PopulationName) -> PopulationRecord:
    """Return a population, locked until the caller's transaction ends; raises PopulationGone."""
    its_row = select(*POPULATION_COLUMNS).where(populations.c.name == name, IS_THERE).with_for_update()
    row = connection.execute(its_row).one_or_none()
    if row is None:
        raise PopulationGone(name)
    return population_record(row)


def population_document_of(connection: Connection, name: str) -> Document | None:
    """Return the audit log's document of a population, locked; None if it is not there any more."""
    try:
        record = lock_population(connection, PopulationName(name))
    except PopulationGone:
        return None
    names = select(population_names.c.name).where(population_names.c.population == name)
    withdrawn = select(versions.c.version).where(
        versions.c.population == name, versions.c.withdrawn_at.is_not(None)
    )
    return population_document(record, list(connection.scalars(names)), list(connection.scalars(withdrawn)))


def population_record(row: Row[Any]) -> PopulationRecord:
    """Return the population that a row of ``POPULATION_COLUMNS`` holds."""
    return PopulationRecord(**row._mapping)  # noqa: SLF001 - the documented name of a row's mapping
