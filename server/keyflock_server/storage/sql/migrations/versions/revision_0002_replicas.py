"""Several processes over one database; cohorts; carried rounds; verdicts, quarantine, averages."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """New tables and columns; what a round's partial aggregate was becomes its first partial's row."""
    _create_tables()
    op.execute(
        "INSERT INTO partials (round_id, replica, key, count, weight) "
        "SELECT id, 'revision-0001', partial_key, counted, weight FROM rounds "
        "WHERE partial_key IS NOT NULL AND counted > 0"
    )
    with op.batch_alter_table("rounds") as table:
        table.drop_column("partial_key")
        table.add_column(sa.Column("carried", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("stepped_from", sa.Integer))
        table.add_column(sa.Column("average_key", sa.String(255)))
        table.add_column(sa.Column("released_key", sa.String(255)))
        table.drop_index("rounds_by_phase")
        table.create_index("rounds_by_phase", ["phase", "task"])
    with op.batch_alter_table("populations") as table:
        table.add_column(sa.Column("average_key", sa.String(255)))
    with op.batch_alter_table("model_versions") as table:
        table.add_column(sa.Column("released_digest", sa.LargeBinary))
        table.add_column(sa.Column("released_bytes", sa.Integer))
        table.add_column(sa.Column("released_key", sa.String(255)))
    # A round on its way to a version had stepped from the version that its phones trained from.
    op.execute("UPDATE rounds SET stepped_from = base_version WHERE phase = 'stepped'")
    with op.batch_alter_table("assignments") as table:
        table.add_column(sa.Column("counted_in", sa.String(96)))
        table.add_column(sa.Column("counted_at", _INSTANT))
        is_open = sa.text("state = 'assigned'")
        table.create_index(
            "assignments_open", ["assigned_at"], sqlite_where=is_open, postgresql_where=is_open
        )
    with op.batch_alter_table("devices") as table:
        table.add_column(sa.Column("tier", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("tags", sa.String(527), nullable=False, server_default=""))
        table.add_column(sa.Column("standing_json", sa.LargeBinary))
        table.add_column(sa.Column("quarantined_until", _INSTANT))
        table.create_index("devices_by_quarantine", ["quarantined_until"])
    op.execute("UPDATE assignments SET counted_in = round_id WHERE state = 'counted'")


def _create_tables() -> None:
    op.create_table(
        "cluster",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(128), nullable=False),
    )
    op.create_table(
        "partials",
        sa.Column("round_id", sa.String(96), sa.ForeignKey("rounds.id"), primary_key=True),
        sa.Column("replica", sa.String(160), primary_key=True),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("expires_at", _INSTANT, nullable=False),
    )
    op.create_table(
        "arrivals",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("check_ins", sa.Integer, nullable=False),
        sa.Column("eligible", sa.Integer, nullable=False),
    )
    op.create_table(
        "round_verdicts",
        sa.Column("round_id", sa.String(96), sa.ForeignKey("rounds.id"), primary_key=True),
        sa.Column("verdict", sa.String(32), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
