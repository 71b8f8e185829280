"""Held and withdrawn versions, assignments that expire, void tokens, tombstones, persistent norm scales."""

import hmac

import sqlalchemy as sa
from alembic import context, op

from keyflock_server.storage.errors import StorageError

revision = "0003"
down_revision = "0002"

_INSTANT = sa.DateTime(timezone=True)
#: Shorter names could be guessed, and owned nothing that was stored.
_MIN_NAME_CHARS = 22
_DEVICES = sa.table("devices", *(sa.column(name) for name in ("id", "population", "user", "user_digest")))
_CLUSTER = sa.table("cluster", sa.column("name"), sa.column("value"))


def upgrade() -> None:
    """New tables and columns; of users there are keyed digests from now on, and their names are nowhere."""
    op.create_table(
        "revocations",
        sa.Column("device_digest", sa.String(64), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("effective_at", _INSTANT, nullable=False),
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
        table.add_column(sa.Column("anchor_loss_chosen", sa.Float))
    with op.batch_alter_table("model_versions") as table:
        table.add_column(sa.Column("anchor_loss", sa.Float))
        table.add_column(sa.Column("withdrawn_at", _INSTANT))
        table.add_column(sa.Column("note", sa.Text, nullable=False, server_default=""))
    with op.batch_alter_table("tasks") as table:
        table.add_column(sa.Column("norm_scales_json", sa.LargeBinary))
    with op.batch_alter_table("rounds") as table:
        table.add_column(sa.Column("expired", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("is_accepted", sa.Boolean, nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("norm_scales_json", sa.LargeBinary))
    with op.batch_alter_table("devices") as table:
        table.add_column(sa.Column("token_generation", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("subject_digest", sa.String(64)))
        table.add_column(sa.Column("silences", sa.Integer, nullable=False, server_default="0"))
        table.add_column(sa.Column("past_participations_json", sa.LargeBinary))
        table.add_column(sa.Column("user_digest", sa.String(64)))
        table.create_index("devices_by_subject", ["subject_digest"])
        table.add_column(sa.Column("has_head", sa.Boolean, nullable=False, server_default=sa.false()))
    # Whose the stored heads are no row tells: of the devices that are there, any may have one.
    op.execute("UPDATE devices SET has_head = EXISTS (SELECT 1 FROM heads)")
    unproven = sa.text("last_contributed_at IS NULL")
    op.create_index(
        "devices_unproven", "devices", ["last_seen_at"], sqlite_where=unproven, postgresql_where=unproven
    )
    with op.batch_alter_table("assignments") as table:
        table.add_column(sa.Column("expires_at", _INSTANT))
    with op.batch_alter_table("heads") as table:
        table.add_column(sa.Column("size_bytes", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE heads SET size_bytes = length(sealed)")
    op.create_index("heads_by_size", "heads", ["size_bytes"])
    _digest_users()
    with op.batch_alter_table("devices") as table:
        table.drop_index("devices_by_user")
        table.drop_column("user")
        table.create_index("devices_by_user", ["user_digest"])


def _digest_users() -> None:
    """Write the digests that stored heads go by already. They need the server's owner key."""
    connection = op.get_bind()
    named = sa.select(_DEVICES).where(_DEVICES.c.user.is_not(None))
    rows = connection.execute(named).all()
    if not rows:
        return
    key: bytes | None = context.config.attributes.get("owner_key")
    if key is None:
        raise StorageError(
            f"The database names the users of {len(rows)} devices in plain text, and digests take the names' "
            "place: that needs the file owner_key in the server's data folder. Give --data-dir too."
        )
    _check_key(connection, key)
    digests = [
        {"of": row.id, "digest": _digest(key, f"{row.population}\nuser\n{row.user}")}
        for row in rows
        if len(row.user) >= _MIN_NAME_CHARS
    ]
    if digests:
        change = sa.update(_DEVICES).where(_DEVICES.c.id == sa.bindparam("of"))
        connection.execute(change.values(user_digest=sa.bindparam("digest")), digests)


def _digest(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(), "sha256").hex()


def _check_key(connection: sa.Connection, key: bytes) -> None:
    claimed = sa.select(_CLUSTER.c.value).where(_CLUSTER.c.name == "owner_key")
    known = connection.execute(claimed).scalar_one_or_none()
    if known not in (None, hmac.digest(key, b"keyflock fingerprint", "sha256")[:16].hex()):
        raise StorageError(
            "The database was used with another owner_key than the one in this data folder: copy the file "
            "from a server that ran, or from the backup."
        )
