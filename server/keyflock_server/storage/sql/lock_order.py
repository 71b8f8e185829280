"""The order in which transactions lock rows, so that no two of them ever wait for each other on PostgreSQL.

A transaction locks rounds, then assignments, devices, populations, versions, tasks, and then whatever else it
writes; of one table it locks the rows by ascending key. So before it changes or deletes several rows of these
tables it locks them all by a statement that has an order: an ``UPDATE`` or ``DELETE`` has none. SQLite runs
one transaction that writes at a time.
"""

from sqlalchemy import ColumnElement, Connection, Table, func, select


def lock_rows(connection: Connection, table: Table, condition: ColumnElement[bool]) -> None:
    """Lock those rows of a table by ascending key, until the transaction ends."""
    keys = table.primary_key.columns
    locked = select(*keys).where(condition).order_by(*keys).with_for_update()
    # The database counts them, so that it sends no rows.
    connection.execute(select(func.count()).select_from(locked.subquery()))
