"""The operator plane: tokens, the audit log, release history, evaluations, causes of failure, new columns."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """New tables and columns; each population's release history begins with what keyboards serve today."""
    _create_operator_tables()
    _create_release_tables()
    with op.batch_alter_table("populations") as table:
        table.add_column(sa.Column("archived_at", _INSTANT))
        table.add_column(sa.Column("release_policy_json", sa.Text))
        table.add_column(sa.Column("revision", sa.Integer, nullable=False, server_default="0"))
    with op.batch_alter_table("tasks") as table:
        table.add_column(sa.Column("pause_reason", sa.Text, nullable=False, server_default=""))
        table.add_column(sa.Column("resumes_at", _INSTANT))
        table.add_column(sa.Column("archived_at", _INSTANT))
        table.add_column(sa.Column("end_reason", sa.Text, nullable=False, server_default=""))
        table.add_column(sa.Column("revision", sa.Integer, nullable=False, server_default="0"))
    with op.batch_alter_table("model_versions") as table:
        table.add_column(sa.Column("pinned_at", _INSTANT))
    op.execute(
        "INSERT INTO releases (population, sequence, at, action, version, percent, operator, reason) "
        "SELECT name, 0, coalesce((SELECT model_versions.created_at FROM model_versions "
        "WHERE model_versions.population = name AND version = latest_version), created_at), "
        "'created', latest_version, 100, 'policy', 'Served before there was a release history.' "
        "FROM populations WHERE deleted_at IS NULL"
    )


def _create_operator_tables() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("created_at", _INSTANT, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("expires_at", _INSTANT),
        sa.Column("revoked_at", _INSTANT),
    )
    op.create_table(
        "audit_log",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", _INSTANT, nullable=False),
        sa.Column("operator", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("action", sa.String(48), nullable=False),
        sa.Column("subject_kind", sa.String(24), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("population", sa.String(64)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("before_json", sa.Text),
        sa.Column("after_json", sa.Text),
        sa.Column("previous_digest", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
    )
    op.create_index("audit_log_by_subject", "audit_log", ["subject_kind", "subject", "sequence"])
    op.create_index("audit_log_by_population", "audit_log", ["population", "sequence"])
    op.create_table(
        "idempotency_keys",
        sa.Column("operator", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("call", sa.String(48), nullable=False),
        sa.Column("request_digest", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _INSTANT, nullable=False),
    )
    op.create_index("idempotency_keys_by_created_at", "idempotency_keys", ["created_at"])
    op.create_index("rounds_by_opening", "rounds", ["opened_at", "id"])


def _create_release_tables() -> None:
    op.create_table(
        "releases",
        sa.Column("population", sa.String(64), sa.ForeignKey("populations.name"), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("at", _INSTANT, nullable=False),
        sa.Column("action", sa.String(24), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("candidate", sa.Integer),
        sa.Column("percent", sa.Integer, nullable=False),
        sa.Column("operator", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("evidence_json", sa.Text),
    )
    op.create_table(
        "evaluations",
        sa.Column("round_id", sa.String(96), sa.ForeignKey("rounds.id"), primary_key=True),
        sa.Column("population", sa.String(64), nullable=False),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("candidate", sa.Integer, nullable=False),
        sa.Column("baseline", sa.Integer, nullable=False),
        sa.Column("phones", sa.Integer, nullable=False),
        sa.Column("sums_json", sa.Text, nullable=False),
        sa.Column("at", _INSTANT, nullable=False),
    )
    op.create_index("evaluations_by_candidate", "evaluations", ["population", "candidate"])
    op.create_table(
        "round_causes",
        sa.Column("round_id", sa.String(96), sa.ForeignKey("rounds.id"), primary_key=True),
        sa.Column("cause", sa.String(48), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
