"""Devices say when the facts changed that decide about a slot."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Two columns, filled from what the rows tell; whoever was never counted or silent has neither."""
    with op.batch_alter_table("devices") as table:
        table.add_column(sa.Column("last_silent_at", _INSTANT))
        table.add_column(sa.Column("changed_at", _INSTANT))
        table.create_index("devices_by_change", ["changed_at"])
    op.execute(
        "UPDATE devices SET last_silent_at = (SELECT max(expires_at) FROM assignments "
        "WHERE assignments.device = devices.id AND assignments.state = 'expired') WHERE silences > 0"
    )
    op.execute("UPDATE devices SET changed_at = last_contributed_at")
    op.execute(
        "UPDATE devices SET changed_at = last_silent_at "
        "WHERE last_silent_at IS NOT NULL AND (changed_at IS NULL OR changed_at < last_silent_at)"
    )
