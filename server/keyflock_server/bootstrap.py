"""The only file that names concrete classes: settings in, a running server out."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from keyflock_models.serving.vocabulary_index import MayShow
from keyflock_server.cluster_keys import ClusterKeys
from keyflock_server.coordinator import Coordinator, Surroundings, Workbench, random_id
from keyflock_server.coordinator.surroundings import calm
from keyflock_server.data_folder import DataFolder
from keyflock_server.descriptors import (
    DescriptorWatch,
    descriptor_limit,
    operators_connections,
    phones_connections,
)
from keyflock_server.heads.checks import HeadChecks
from keyflock_server.heads.erasing import Erasing
from keyflock_server.heads.heads import Heads
from keyflock_server.heads.key_ring import read_head_keys
from keyflock_server.heads.maps import HeadMaps
from keyflock_server.heads.quota import StoredModelQuota
from keyflock_server.heads.reader import Languages
from keyflock_server.heads.reading_threads import ReadingThreads
from keyflock_server.http.admin import AdminEndpoints
from keyflock_server.http.application import application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.connections import Connections
from keyflock_server.http.embedded import EmbeddedServer
from keyflock_server.http.enrolment_limits import EnrolmentLimits
from keyflock_server.http.heartbeat import Heartbeat
from keyflock_server.http.lifecycles import Lifecycle, Lifecycles
from keyflock_server.http.load import LoadMeter
from keyflock_server.http.operator_calls import MAX_CHECKPOINT_BYTES, MAX_TASK_BYTES
from keyflock_server.http.personal import PersonalCalls
from keyflock_server.http.plane import Clock
from keyflock_server.http.probes import Probes
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.sdk import SdkEndpoints
from keyflock_server.http.server import Port, Server
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.attestation import AcceptAll, Attestation
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import (
    load_or_create_admin_token,
    load_or_create_owner_key,
    load_or_create_signing_keys,
)
from keyflock_server.identity.revocations import Revocations
from keyflock_server.identity.user_statements import read_user_keys
from keyflock_server.identity.users import Users
from keyflock_server.settings import Settings
from keyflock_server.storage.blobs import LocalBlobs, blobs_at
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.suggestions.blocked import may_show_from
from keyflock_server.suggestions.profiles import Profiles
from keyflock_server.suggestions.released import Released
from keyflock_server.suggestions.service import SuggestionDesk
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.observation import Observation

_log: Final = logger("keyflock.server")
#: How long a process goes by what it has read of users: alone, and where others may change it.
_TRUST_OF_ONE: Final = timedelta(hours=1)
_TRUST_OF_MANY: Final = timedelta(minutes=1)
#: Operators' requests being read or answered at once.
OPERATORS_BODIES: Final = 32
#: One model of the largest size at a time, and small things beside it.
OPERATORS_BODY_BYTES: Final = MAX_CHECKPOINT_BYTES + 16 * MAX_TASK_BYTES


def system_clock() -> datetime:
    """Now, aware UTC."""
    return datetime.now(UTC)


def build(
    settings: Settings,
    clock: Clock = system_clock,
    attestation: Attestation | None = None,
    may_show: MayShow | None = None,
) -> Server:
    """A server that will run as ``settings`` say.

    Args:
        settings: How to run.
        clock: Gives now, aware UTC.
        attestation: Judges phones at enrolment; None takes every phone at its word, and the log warns of it.
        may_show: Which words may be suggested; None asks the file of ``settings.blocked_words``.
    Raises:
        DataFolderError: fault of the operator; the data folder cannot be used.
        KeyFileError: fault of the operator; a secret's file cannot be used.
        StorageError: fault of the operator; the URL of the database or of the blobs cannot be used.
    """
    meter = LoadMeter(settings.max_bodies_in_flight)
    parts = _assemble(settings, clock, attestation or AcceptAll(), may_show, meter.load)
    heartbeat = Heartbeat(parts.lifecycle.tick, settings.tick_s, parts.metrics, saw_lag=meter.saw_lag)
    probes = Probes(parts.readiness, heartbeat, parts.metrics)
    body_limits = BodyLimits(
        settings.max_bodies_in_flight,
        settings.max_body_bytes_in_flight,
        settings.body_timeout_s,
        parts.metrics,
    )
    # Of their own: phones never keep an operator out, nor a model's upload the phones.
    operators_limits = BodyLimits(
        OPERATORS_BODIES, OPERATORS_BODY_BYTES, settings.body_timeout_s, parts.metrics, "operators"
    )
    body_limits.held_after_answer = parts.held_after_answer
    meter.in_flight = lambda: body_limits.in_flight
    max_operators = operators_connections(settings.max_operator_connections, descriptor_limit())
    connections = Connections(
        parts.sdk.form,
        parts.metrics,
        port=body_limits.whose,
        max_connections=phones_connections(settings.max_connections, max_operators, descriptor_limit()),
        header_timeout_s=settings.header_timeout_s,
        answer_timeout_s=settings.answer_timeout_s,
    )
    admin_connections = Connections(
        parts.admin.form,
        parts.metrics,
        port=operators_limits.whose,
        max_connections=max_operators,
        header_timeout_s=settings.header_timeout_s,
        answer_timeout_s=settings.answer_timeout_s,
    )
    return Server(
        parts.lifecycle,
        parts.folder,
        sdk_port=Port(
            application(parts.sdk, body_limits, probes, with_metrics=False, connections=connections),
            settings.host,
            settings.port,
        ),
        admin_port=Port(
            application(
                parts.admin, operators_limits, probes, with_metrics=True, connections=admin_connections
            ),
            settings.admin_host,
            settings.admin_port,
        ),
        readiness=parts.readiness,
        heartbeat=heartbeat,
        shutdown_grace_s=settings.shutdown_grace_s,
    )


def embedded_exchange(
    data_dir: Path, clock: Clock, *, attestation: Attestation | None = None, **options: object
) -> EmbeddedServer:
    """A server inside the caller's event loop, on the caller's clock, without sockets.

    Args:
        data_dir: Its data folder.
        clock: Gives now, aware UTC: usually a simulation's.
        attestation: As for ``build``.
        options: Further fields of ``Settings``. Reports do not wait for their micro-batch (``ack_wait_s`` 0)
            unless said so, for nobody would flush it while the caller waits.
    """
    settings = Settings.read({"ack_wait_s": 0.0, **options, "data_dir": data_dir}, environment={})
    parts = _assemble(settings, clock, attestation or AcceptAll(), None, is_embedded=True)
    return EmbeddedServer(
        parts.lifecycle,
        sdk=parts.sdk,
        admin=parts.admin,
        readiness=parts.readiness,
        admin_token=parts.admin_token,
        release=parts.folder.release,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    folder: DataFolder
    admin_token: str
    lifecycle: Lifecycle
    sdk: SdkEndpoints
    admin: AdminEndpoints
    readiness: Readiness
    metrics: Metrics
    #: Bytes of phones' bodies that are kept after their answers.
    held_after_answer: Callable[[], int]


def _assemble(
    settings: Settings,
    clock: Clock,
    attestation: Attestation,
    may_show: MayShow | None,
    load: Callable[[], float] = calm,
    *,
    is_embedded: bool = False,
) -> _Parts:
    head_keys = None if settings.head_keys is None else read_head_keys(settings.head_keys)
    user_keys = () if settings.user_keys is None else read_user_keys(settings.user_keys)
    may_show = may_show or may_show_from(settings.blocked_words)
    folder = DataFolder.open(settings.data_dir)
    try:
        keys = load_or_create_signing_keys(folder.path)
        admin_token = load_or_create_admin_token(folder.path)
        owner_key = load_or_create_owner_key(folder.path)
        store = SqlStore(settings.database or folder.database_url)
        blobs = blobs_at(settings.blobs) if settings.blobs else LocalBlobs(folder.blobs)
    except BaseException:
        folder.release()
        raise
    if attestation.warning:
        _log.warning(attestation.warning)
    if head_keys is None:
        _log.info("heads are not stored: there are no head keys (--head-keys)")
    metrics, readiness = Metrics(), Readiness()
    revocations = Revocations(owner_key)
    assignment_tokens = AssignmentTokens(keys)
    replica = random_id()
    store.on_unchecked = _tell_unchecked
    _log.info("storage", database=store.name, blobs=blobs.name, replica=replica)
    coordinator = Coordinator(
        Surroundings(
            store=store,
            blobs=blobs,
            clock=clock,
            tokens=assignment_tokens,
            owner_key=owner_key,
            users=Users(owner_key, user_keys),
            revocations=revocations,
            device_token_ttl_s=settings.device_token_ttl_s,
            token_grace_s=settings.token_grace_s,
            sampling_key=keys.derived("sampling"),
            new_id=random_id,
            observer=Observation(metrics),
            workbench=Workbench(),
            ack_wait_s=settings.ack_wait_s,
            load=load,
            replica=replica,
            is_sole=settings.database is None,
            lease_s=settings.lease_s,
        )
    )
    languages, threads = Languages(coordinator), ReadingThreads()
    erasing = Erasing(store, clock)
    lifecycles: list[Lifecycle] = [ClusterKeys(store, keys, owner_key), erasing, threads]
    maps = HeadMaps(coordinator, languages)
    heads, profiles, suggestions = None, None, None
    if head_keys is not None:
        checks = HeadChecks(coordinator, languages, threads)
        quota = StoredModelQuota(store, settings.max_stored_model_bytes, clock, metrics)
        erasing.on_freed = quota.freed
        heads = Heads(store, head_keys, owner_key, erasing, checks, quota, clock)
        lifecycles += [quota, heads]
    if settings.suggestions:
        if heads is not None:
            profiles = Profiles(
                heads,
                languages,
                clock,
                metrics,
                threads=threads,
                max_bytes=settings.max_profile_bytes,
                trust=_TRUST_OF_ONE if settings.database is None else _TRUST_OF_MANY,
            )
            heads.on_change = erasing.on_erased = profiles.drop
        suggestions = SuggestionDesk(
            Released(coordinator, languages, maps, may_show),
            profiles,
            clock,
            metrics,
            waits=is_embedded,
        )
        lifecycles.append(suggestions)
    sdk = SdkEndpoints(
        coordinator,
        PersonalCalls(erasing, maps, heads, suggestions),
        device_tokens=DeviceTokens(
            keys, settings.device_token_ttl_s, refresh_grace_s=settings.refresh_grace_s
        ),
        revocations=revocations,
        assignment_tokens=assignment_tokens,
        attestation=attestation,
        clock=clock,
        readiness=readiness,
        metrics=metrics,
        enrolment_limits=EnrolmentLimits(
            settings.max_enrolments_per_minute,
            settings.max_enrolments_per_block_per_hour,
            settings.trusted_proxies,
        ),
    )
    admin = AdminEndpoints(coordinator, admin_token=admin_token, readiness=readiness, metrics=metrics)
    if not is_embedded:
        lifecycles.append(DescriptorWatch(metrics))
    lifecycle = Lifecycles(coordinator, lifecycles)
    return _Parts(
        folder, admin_token, lifecycle, sdk, admin, readiness, metrics, coordinator.unattended_bytes
    )


def _tell_unchecked(database: str, within_s: float) -> None:
    _log.warning("only a part of the database was checked for damage", database=database, within_s=within_s)
