"""The schema. Instants are UTC and aware when they leave this package, on every back end."""

from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import DateTime, TypeDecorator

#: The newest revision in ``sql/migrations``, which makes a database what this file says. One of another is
#: refused at start.
SCHEMA_REVISION: Final = "0003"

metadata: Final = MetaData()


class Instant(TypeDecorator[datetime]):
    """An aware UTC instant, whether the back end knows of time zones or not."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """To UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """SQLite gives naive datetimes back; they are UTC."""
        if value is None:
            return None
        instant: datetime = value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


class Words(TypeDecorator[tuple[str, ...]]):
    """A few words without spaces in them, in their order."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """One string."""
        return None if value is None else " ".join(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[str, ...] | None:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """The words."""
        return None if value is None else tuple(value.split())


populations: Final = Table(
    "populations",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", Instant, nullable=False),
    Column("latest_version", Integer, nullable=False),
    Column("config_json", Text, nullable=False),
    Column("vocabulary_digest", String(64), nullable=False),
    Column("personalisation_json", LargeBinary),
    Column("average_key", String(255)),
    Column("anchor_tokens", Integer),
    Column("anchor_loss_chosen", Float),
)

versions: Final = Table(
    "model_versions",
    metadata,
    Column("population", ForeignKey("populations.name"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("parent", Integer),
    Column("round_id", String(96)),
    Column("created_at", Instant, nullable=False),
    Column("download_digest", LargeBinary, nullable=False),
    Column("download_bytes", Integer, nullable=False),
    Column("download_key", String(255), nullable=False),
    Column("checkpoint_key", String(255), nullable=False),
    Column("released_digest", LargeBinary),
    Column("released_bytes", Integer),
    Column("released_key", String(255)),
    Column("anchor_loss", Float),
    Column("withdrawn_at", Instant),
    Column("note", Text, nullable=False, server_default=""),
)

tasks: Final = Table(
    "tasks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("population", ForeignKey("populations.name"), nullable=False),
    Column("spec_json", LargeBinary, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("optimizer_state_key", String(255)),
    Column("norm_scales_json", LargeBinary),
)

rounds: Final = Table(
    "rounds",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("task", ForeignKey("tasks.name"), nullable=False),
    Column("population", String(64), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("base_version", Integer, nullable=False),
    Column("spec_json", LargeBinary, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("deadline_at", Instant, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("assigned", Integer, nullable=False),
    Column("counted", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("expired", Integer, nullable=False, server_default="0"),
    Column("carried", Integer, nullable=False, server_default="0"),
    Column("weight", Float, nullable=False),
    Column("closed_at", Instant),
    Column("result_version", Integer),
    Column("detail", Text, nullable=False),
    Column("figures_json", Text, nullable=False),
    Column("is_accepted", Boolean, nullable=False, server_default=false()),
    Column("aggregate_key", String(255)),
    Column("stepped_from", Integer),
    Column("checkpoint_key", String(255)),
    Column("download_key", String(255)),
    Column("state_key", String(255)),
    Column("average_key", String(255)),
    Column("released_key", String(255)),
    Column("norm_scales_json", LargeBinary),
    UniqueConstraint("task", "sequence"),
    Index("rounds_by_phase", "phase", "task"),
)

#: Devices whose report was never counted; spelled out like ``OPEN_ASSIGNMENT``.
UNPROVEN: Final = text("last_contributed_at IS NULL")

devices: Final = Table(
    "devices",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("population", ForeignKey("populations.name"), nullable=False),
    #: A keyed digest.
    Column("user_digest", String(64)),
    Column("app_build", Integer, nullable=False),
    Column("locale", String(35), nullable=False),
    Column("enrolled_at", Instant, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    Column("last_contributed_at", Instant),
    Column("tier", Integer, nullable=False, server_default="0"),
    Column("tags", Words(527), nullable=False, server_default=""),
    Column("standing_json", LargeBinary),
    Column("quarantined_until", Instant),
    Column("token_generation", Integer, nullable=False, server_default="0"),
    Column("subject_digest", String(64)),
    Column("silences", Integer, nullable=False, server_default="0"),
    Column("past_participations_json", LargeBinary),
    Column("has_head", Boolean, nullable=False, server_default=false()),
    Index("devices_by_user", "user_digest"),
    Index("devices_by_subject", "subject_digest"),
    Index("devices_by_quarantine", "quarantined_until"),
    Index("devices_by_last_seen", "population", "last_seen_at"),
    Index("devices_unproven", "last_seen_at", sqlite_where=UNPROVEN, postgresql_where=UNPROVEN),
)

heads: Final = Table(
    "heads",
    metadata,
    Column("population", ForeignKey("populations.name"), primary_key=True),
    Column("owner", String(64), primary_key=True),
    Column("tag", LargeBinary, nullable=False),
    Column("key_id", String(8), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    #: Of ``sealed``: with the index the sum over all of them reads none of them.
    Column("size_bytes", Integer, nullable=False, server_default="0"),
    Column("updated_at", Instant, nullable=False),
    Index("heads_by_key", "key_id"),
    Index("heads_by_size", "size_bytes"),
)

#: Spelled out, for a database finds an index on a part of the rows only by a condition without parameters.
OPEN_ASSIGNMENT: Final = text("state = 'assigned'")

assignments: Final = Table(
    "assignments",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("id", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("assigned_at", Instant, nullable=False),
    Column("report_digest", LargeBinary),
    Column("weight", Float, nullable=False),
    Column("session_shape", String(32), nullable=False),
    Column("counted_in", String(96)),
    Column("counted_at", Instant),
    Column("expires_at", Instant),
    Index("assignments_by_device", "device"),
    # Those that nothing has come of yet: few, however many are kept of which something has.
    Index("assignments_open", "assigned_at", sqlite_where=OPEN_ASSIGNMENT, postgresql_where=OPEN_ASSIGNMENT),
)

partials: Final = Table(
    "partials",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("replica", String(160), primary_key=True),
    Column("key", String(255), nullable=False),
    Column("count", Integer, nullable=False),
    Column("weight", Float, nullable=False),
)

leases: Final = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("expires_at", Instant, nullable=False),
)

#: Check-ins by the hour, over all phones.
arrivals: Final = Table(
    "arrivals",
    metadata,
    Column("task", String(64), primary_key=True),
    #: Since the epoch.
    Column("hour", Integer, primary_key=True),
    Column("check_ins", Integer, nullable=False),
    Column("eligible", Integer, nullable=False),
)

cluster: Final = Table(
    "cluster",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(128), nullable=False),
)

#: What was said of a round's reports. Changed by increments alone: replicas never overwrite each other.
round_verdicts: Final = Table(
    "round_verdicts",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("verdict", String(32), primary_key=True),
    Column("count", Integer, nullable=False),
)

#: Tokens that are void though they have not expired: refreshed, revoked, or of a device that was forgotten.
revocations: Final = Table(
    "revocations",
    metadata,
    #: A keyed digest of the device's id.
    Column("device_digest", String(64), primary_key=True),
    #: Tokens of lower generations are void at once, of this one from ``effective_at`` on.
    Column("generation", Integer, nullable=False),
    Column("effective_at", Instant, nullable=False),
    #: When this row says nothing any more: all such tokens have expired.
    Column("until", Instant, nullable=False),
    #: Replicas read what was written since they looked last.
    Column("written_at", Instant, nullable=False),
    Index("revocations_by_written_at", "written_at"),
    Index("revocations_by_until", "until"),
)

#: What must outlive a forgotten device, so that enrolling anew is no way round a quarantine or a limit.
tombstones: Final = Table(
    "tombstones",
    metadata,
    #: A keyed digest of what proves to be the same: the user's secret, or the attested installation.
    Column("digest", String(64), primary_key=True),
    Column("until", Instant, nullable=False),
    Column("quarantined_until", Instant),
    Column("last_contributed_at", Instant),
    #: Counted reports by task, where a task limits them.
    Column("participations_json", LargeBinary),
    Index("tombstones_by_until", "until"),
)
