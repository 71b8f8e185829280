"""Alembic's way in: runs the revisions on the connection that ``schema`` put into the configuration."""

from alembic import context

from keyflock_server.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # the caller's transaction is around all of it, on SQLite as well
)
context.run_migrations()
