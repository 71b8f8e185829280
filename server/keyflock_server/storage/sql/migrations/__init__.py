"""The schema revisions, which Alembic applies to a database of an earlier release (see ``schema``)."""
