"""The schema of release 0.1: what a database with the table ``schema_version`` at 1 holds."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """All tables."""
    op.create_table(
        "populations",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("latest_version", sa.Integer, nullable=False),
        sa.Column("config_json", sa.Text, nullable=False),
        sa.Column("vocabulary_digest", sa.String(64), nullable=False),
        sa.Column("personalisation_json", sa.LargeBinary),
    )
    op.create_table(
        "model_versions",
        sa.Column("population", sa.String(64), sa.ForeignKey("populations.name"), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("parent", sa.Integer),
        sa.Column("round_id", sa.String(96)),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("download_digest", sa.LargeBinary, nullable=False),
        sa.Column("download_bytes", sa.Integer, nullable=False),
        sa.Column("download_key", sa.String(255), nullable=False),
        sa.Column("checkpoint_key", sa.String(255), nullable=False),
    )
    op.create_table(
        "tasks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("population", sa.String(64), sa.ForeignKey("populations.name"), nullable=False),
        sa.Column("spec_json", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("optimizer_state_key", sa.String(255)),
    )
    _create_rounds()
    op.create_table(
        "devices",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("population", sa.String(64), sa.ForeignKey("populations.name"), nullable=False),
        sa.Column("user", sa.String(128)),
        sa.Column("app_build", sa.Integer, nullable=False),
        sa.Column("locale", sa.String(35), nullable=False),
        sa.Column("enrolled_at", _INSTANT, nullable=False),
        sa.Column("last_seen_at", _INSTANT, nullable=False),
        sa.Column("last_contributed_at", _INSTANT),
    )
    op.create_index("devices_by_user", "devices", ["population", "user"])
    op.create_index("devices_by_last_seen", "devices", ["population", "last_seen_at"])
    op.create_table(
        "heads",
        sa.Column("population", sa.String(64), sa.ForeignKey("populations.name"), primary_key=True),
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("tag", sa.LargeBinary, nullable=False),
        sa.Column("key_id", sa.String(8), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("updated_at", _INSTANT, nullable=False),
    )
    op.create_index("heads_by_key", "heads", ["key_id"])
    op.create_table(
        "assignments",
        sa.Column("round_id", sa.String(96), sa.ForeignKey("rounds.id"), primary_key=True),
        sa.Column("device", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("assigned_at", _INSTANT, nullable=False),
        sa.Column("report_digest", sa.LargeBinary),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("session_shape", sa.String(32), nullable=False),
    )
    op.create_index("assignments_by_device", "assignments", ["device"])


def _create_rounds() -> None:
    op.create_table(
        "rounds",
        sa.Column("id", sa.String(96), primary_key=True),
        sa.Column("task", sa.String(64), sa.ForeignKey("tasks.name"), nullable=False),
        sa.Column("population", sa.String(64), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("base_version", sa.Integer, nullable=False),
        sa.Column("spec_json", sa.LargeBinary, nullable=False),
        sa.Column("opened_at", _INSTANT, nullable=False),
        sa.Column("deadline_at", _INSTANT, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("assigned", sa.Integer, nullable=False),
        sa.Column("counted", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("closed_at", _INSTANT),
        sa.Column("result_version", sa.Integer),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("figures_json", sa.Text, nullable=False),
        sa.Column("partial_key", sa.String(255)),
        sa.Column("aggregate_key", sa.String(255)),
        sa.Column("checkpoint_key", sa.String(255)),
        sa.Column("download_key", sa.String(255)),
        sa.Column("state_key", sa.String(255)),
        sa.UniqueConstraint("task", "sequence"),
    )
    op.create_index("rounds_by_phase", "rounds", ["phase"])
