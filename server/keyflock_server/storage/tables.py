"""The tables. Instants are UTC and aware when they leave this package, on every back end."""

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

#: The newest revision in ``sql/migrations``, which produces the tables of this file. A server refuses to
#: start with another one.
SCHEMA_REVISION: Final = "0006"

metadata: Final = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """The column type of an aware UTC instant, whether the back end supports time zones or not."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Convert to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """Return an aware datetime; SQLite's naive ones are UTC."""
        if value is None:
            return None
        instant: datetime = value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


class SpaceSeparated(TypeDecorator[tuple[str, ...]]):
    """The column type of a tuple of words without spaces."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Join the words into one string."""
        return None if value is None else " ".join(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> tuple[str, ...] | None:  # noqa: ANN401, ARG002 - SQLAlchemy's signature
        """Return the words."""
        return None if value is None else tuple(value.split())


populations: Final = Table(
    "populations",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("latest_version", Integer, nullable=False),
    Column("config_json", Text, nullable=False),
    Column("vocabulary_digest", String(64), nullable=False),
    Column("personalisation_json", LargeBinary),
    Column("average_key", String(255)),
    Column("anchor_tokens", Integer),
    Column("anchor_loss_chosen", Float),
    Column("current_name", String(64)),
    #: When it was deleted; the row stays, so that its id is not used again.
    Column("deleted_at", UtcDateTime),
)

#: All names by which phones and operators may mean a population: its id, and those that it was given.
population_names: Final = Table(
    "population_names",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("population", ForeignKey("populations.name"), nullable=False),
    Index("population_names_by_population", "population"),
)

versions: Final = Table(
    "model_versions",
    metadata,
    Column("population", ForeignKey("populations.name"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("parent", Integer),
    Column("round_id", String(96)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("download_digest", LargeBinary, nullable=False),
    Column("download_bytes", Integer, nullable=False),
    Column("download_key", String(255), nullable=False),
    Column("checkpoint_key", String(255), nullable=False),
    Column("released_digest", LargeBinary),
    Column("released_bytes", Integer),
    Column("released_key", String(255)),
    Column("anchor_loss", Float),
    Column("withdrawn_at", UtcDateTime),
    Column("note", Text, nullable=False, server_default=""),
)

tasks: Final = Table(
    "tasks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("population", ForeignKey("populations.name"), nullable=False),
    Column("spec_json", LargeBinary, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
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
    Column("opened_at", UtcDateTime, nullable=False),
    Column("deadline_at", UtcDateTime, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("assigned", Integer, nullable=False),
    Column("counted", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("expired", Integer, nullable=False, server_default="0"),
    Column("carried", Integer, nullable=False, server_default="0"),
    Column("weight", Float, nullable=False),
    Column("closed_at", UtcDateTime),
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

#: The condition of devices whose report was never counted; a literal for the reason of ``OPEN_ASSIGNMENT``.
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
    Column("enrolled_at", UtcDateTime, nullable=False),
    Column("last_seen_at", UtcDateTime, nullable=False),
    Column("last_contributed_at", UtcDateTime),
    Column("tier", Integer, nullable=False, server_default="0"),
    Column("tags", SpaceSeparated(527), nullable=False, server_default=""),
    Column("standing_json", LargeBinary),
    Column("quarantined_until", UtcDateTime),
    Column("token_generation", Integer, nullable=False, server_default="0"),
    Column("subject_digest", String(64)),
    Column("silences", Integer, nullable=False, server_default="0"),
    Column("past_participations_json", LargeBinary),
    Column("has_head", Boolean, nullable=False, server_default=false()),
    Column("last_silent_at", UtcDateTime),
    Column("changed_at", UtcDateTime),
    Index("devices_by_user", "user_digest"),
    Index("devices_by_subject", "subject_digest"),
    Index("devices_by_quarantine", "quarantined_until"),
    Index("devices_by_change", "changed_at"),
    # The last two are there for ``count_active``, which then reads no row.
    Index("devices_by_last_seen", "population", "last_seen_at", "enrolled_at", "last_contributed_at"),
    Index("devices_unproven", "last_seen_at", sqlite_where=UNPROVEN, postgresql_where=UNPROVEN),
)

personal_models: Final = Table(
    "heads",
    metadata,
    Column("population", ForeignKey("populations.name"), primary_key=True),
    Column("owner", String(64), primary_key=True),
    Column("tag", LargeBinary, nullable=False),
    Column("key_id", String(8), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    #: The length of ``sealed``; with the index, the sum over all rows reads none of them.
    Column("size_bytes", Integer, nullable=False, server_default="0"),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("heads_by_key", "key_id"),
    Index("heads_by_size", "size_bytes"),
)

#: A literal, because a database uses a partial index only for a condition without parameters.
OPEN_ASSIGNMENT: Final = text("state = 'assigned'")

assignments: Final = Table(
    "assignments",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("device", String(64), primary_key=True),
    Column("id", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("assigned_at", UtcDateTime, nullable=False),
    Column("report_digest", LargeBinary),
    Column("weight", Float, nullable=False),
    Column("session_shape", String(32), nullable=False),
    Column("counted_in", String(96)),
    Column("counted_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Index("assignments_by_device", "device"),
    # Open assignments are few, however many rows the table has.
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
    Column("expires_at", UtcDateTime, nullable=False),
)

#: Check-ins by the hour, over all phones.
arrivals: Final = Table(
    "arrivals",
    metadata,
    Column("task", String(64), primary_key=True),
    #: Hours since the epoch.
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

#: Counts of verdicts by round. They change by increments only: replicas never overwrite each other.
round_verdicts: Final = Table(
    "round_verdicts",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("verdict", String(32), primary_key=True),
    Column("count", Integer, nullable=False),
)

#: Tokens that are invalid before they expire: refreshed, revoked, or of a forgotten device.
revocations: Final = Table(
    "revocations",
    metadata,
    #: A keyed digest of the device's id.
    Column("device_digest", String(64), primary_key=True),
    #: Tokens of lower generations are invalid at once, of this one from ``effective_at`` on.
    Column("generation", Integer, nullable=False),
    Column("effective_at", UtcDateTime, nullable=False),
    #: When all these tokens have expired, so that the row can be deleted.
    Column("until", UtcDateTime, nullable=False),
    #: Replicas read the rows that were written since their last read.
    Column("written_at", UtcDateTime, nullable=False),
    Index("revocations_by_written_at", "written_at"),
    Index("revocations_by_until", "until"),
)

#: Facts that outlive a forgotten device, so that enrolling again does not end a quarantine or a limit.
tombstones: Final = Table(
    "tombstones",
    metadata,
    #: A keyed digest of the user's secret, or of the attested installation.
    Column("digest", String(64), primary_key=True),
    Column("until", UtcDateTime, nullable=False),
    Column("quarantined_until", UtcDateTime),
    Column("last_contributed_at", UtcDateTime),
    #: Counted reports by task, for tasks that limit them.
    Column("participations_json", LargeBinary),
    Index("tombstones_by_until", "until"),
)
