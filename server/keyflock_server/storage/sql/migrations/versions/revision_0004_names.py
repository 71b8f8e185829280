"""Populations have several names, and may be deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """A table of names, in which each population has the one it was created with."""
    with op.batch_alter_table("populations") as table:
        table.add_column(sa.Column("current_name", sa.String(64)))
        table.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True)))
    op.create_table(
        "population_names",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("population", sa.String(64), sa.ForeignKey("populations.name"), nullable=False),
    )
    op.create_index("population_names_by_population", "population_names", ["population"])
    op.execute("INSERT INTO population_names (name, population) SELECT name, name FROM populations")
