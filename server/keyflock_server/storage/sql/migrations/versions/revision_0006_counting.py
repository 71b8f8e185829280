"""The devices of a day are counted from an index alone."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Have the index by last visit hold what decides whether a device counts."""
    op.drop_index("devices_by_last_seen", "devices")
    op.create_index(
        "devices_by_last_seen",
        "devices",
        ["population", "last_seen_at", "enrolled_at", "last_contributed_at"],
    )
