"""Held and withdrawn versions, assignments that expire, void tokens, tombstones, persistent norm scales."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """New tables and columns."""
    op.create_table(
        "revocations",
        sa.Column("device_digest", sa.String(64), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("until", _INSTANT, nullable=False),
        sa.Column("written_at", _INSTANT, nullable=False),
    )
    op.create_index("revocations_by_written_at", "revocations", ["written_at"])
    op.create_index("revocations_by_until", "revocations", ["until"])
    op.create_table(
        "tombstones",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("until", _INSTANT, nullable=False),
        sa.Column("quarantined_until", _INSTANT),
        sa.Column("last_contributed_at", _INSTANT),
        sa.Column("participations_json", sa.LargeBinary),
    )
    op.create_index("tombstones_by_until", "tombstones", ["until"])
    with op.batch_alter_table("populations") as table:
        table.add_column(sa.Column("anchor_tokens", sa.Integer))
    with op.batch_alter_table("model_versions") as table:
        table.add_column(sa.Column("anchor_loss", sa.Float))
        table.add_column(sa.Column("withdrawn_at", _INSTANT))
        table.add_column(sa.Column("note", sa.Text, nullable=False, server_default=""))
    with op.batch_alter_table("tasks") as table:
        table.add_column(sa.Column("norm_scales_json", sa.LargeBinary))
    with op.batch_alter_table("rounds") as table:
        table.add_column(sa.Column("expired", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("is_accepted", sa.Boolean, nullable=False, server_default=sa.false()))
    with op.batch_alter_table("devices") as table:
        table.add_column(sa.Column("token_generation", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("subject_digest", sa.String(64)))
        table.add_column(sa.Column("silences", sa.Integer, nullable=False, server_default="0"))
    with op.batch_alter_table("assignments") as table:
        table.add_column(sa.Column("expires_at", _INSTANT))
    with op.batch_alter_table("heads") as table:
        table.add_column(sa.Column("size_bytes", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE heads SET size_bytes = length(sealed)")
    op.create_index("heads_by_size", "heads", ["size_bytes"])
