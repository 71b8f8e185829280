"""The tables. Instants are UTC and aware when they leave this package, on every back end."""

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
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

from keyflock_server.storage.columns import SpaceSeparated, UtcDateTime

#: The newest revision in ``sql/migrations``, which produces the tables of this file. A server refuses to
#: start with another one.
SCHEMA_REVISION: Final = "0007"
#: The oldest revision whose servers work on these tables, beside this release's: all later ones only add what
#: those servers need not know. A database says so itself, to servers of releases that cannot know of it.
COMPATIBLE_FROM: Final = "0007"

metadata: Final = MetaData()


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
    Column("archived_at", UtcDateTime),
    Column("release_policy_json", Text),
    Column("revision", Integer, nullable=False, server_default="0"),
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
    Column("pinned_at", UtcDateTime),
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
    Column("pause_reason", Text, nullable=False, server_default=""),
    Column("resumes_at", UtcDateTime),
    Column("archived_at", UtcDateTime),
    Column("end_reason", Text, nullable=False, server_default=""),
    #: Grows with each change by an operator; other processes read a spec again when it has grown.
    Column("revision", Integer, nullable=False, server_default="0"),
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
    # For lists of all rounds, newest first.
    Index("rounds_by_opening", "opened_at", "id"),
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

#: Counts of the causes of failure that phones gave, by round; increments only, as above.
round_causes: Final = Table(
    "round_causes",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("cause", String(48), primary_key=True),
    Column("count", Integer, nullable=False),
)

#: The summed metrics of closed ``evaluate`` rounds.
evaluations: Final = Table(
    "evaluations",
    metadata,
    Column("round_id", ForeignKey("rounds.id"), primary_key=True),
    Column("population", String(64), nullable=False),
    Column("task", String(64), nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("baseline", Integer, nullable=False),
    Column("phones", Integer, nullable=False),
    Column("sums_json", Text, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("evaluations_by_candidate", "population", "candidate"),
)

#: What keyboards serve, append-only: the newest row of a population is its release state.
releases: Final = Table(
    "releases",
    metadata,
    Column("population", ForeignKey("populations.name"), primary_key=True),
    Column("sequence", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("action", String(24), nullable=False),
    Column("version", Integer, nullable=False),
    Column("candidate", Integer),
    Column("percent", Integer, nullable=False),
    Column("operator", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence_json", Text),
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

#: Operators' tokens; their secrets are nowhere.
api_tokens: Final = Table(
    "api_tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    #: SHA-256 of the secret.
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

#: Operators' changes, append-only and chained by digests; the sequence has no gaps.
audit_log: Final = Table(
    "audit_log",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("operator", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("action", String(48), nullable=False),
    Column("subject_kind", String(24), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("population", String(64)),
    Column("reason", Text, nullable=False),
    Column("before_json", Text),
    Column("after_json", Text),
    Column("previous_digest", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Index("audit_log_by_subject", "subject_kind", "subject", "sequence"),
    Index("audit_log_by_population", "population", "sequence"),
)

#: Keys by which a repeated creation gets the answer of the first one.
idempotency_keys: Final = Table(
    "idempotency_keys",
    metadata,
    Column("operator", String(64), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("call", String(48), nullable=False),
    Column("request_digest", LargeBinary, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("idempotency_keys_by_created_at", "created_at"),
)
