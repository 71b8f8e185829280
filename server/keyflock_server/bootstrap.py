"""Builds a server from settings; the only file that chooses concrete classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from keyflock_models.serving.vocabulary_index import MayShow
from keyflock_server.cluster_keys import ClusterKeys
from keyflock_server.coordinator import ComputeThread, Coordinator, Dependencies, GroupCommit
from keyflock_server.coordinator.compute_thread import lanes_for_this_machine
from keyflock_server.coordinator.dependencies import no_load
from keyflock_server.coordinator.events import fan_out
from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.data_folder import DATABASE_FILE, DataFolder, DataFolderError
from keyflock_server.descriptors import DescriptorWatch, descriptor_limit, max_operator_connections
from keyflock_server.http.endpoint_group import Clock
from keyflock_server.http.enrolment_limits import EnrolmentLimits
from keyflock_server.http.operators.authentication import TokenAuthenticator
from keyflock_server.http.operators.endpoints import OperatorEndpoints
from keyflock_server.http.operators.repeated_creations import RepeatedCreations
from keyflock_server.http.operators.resources import resources_of
from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.sdk import SdkEndpoints
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.attestation import AcceptAll, Attestation
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.revocations import Revocations
from keyflock_server.identity.server_secrets import ServerSecrets, secrets_in, seeded_secrets
from keyflock_server.identity.user_statements import read_user_keys
from keyflock_server.identity.users import Users
from keyflock_server.live_events.hub import MAX_READERS, EventHub
from keyflock_server.live_events.recorder import EventRecorder
from keyflock_server.live_events.stream_tokens import StreamTokenWatch
from keyflock_server.live_events.watch import EventWatch
from keyflock_server.personal_models.decode_thread_pool import DecodeThreadPool
from keyflock_server.personal_models.eraser import PersonalModelEraser
from keyflock_server.personal_models.head_maps import HeadMapService
from keyflock_server.personal_models.key_ring import read_key_ring
from keyflock_server.personal_models.population_model_info import PopulationModelInfos
from keyflock_server.personal_models.quota import StoredModelQuota
from keyflock_server.personal_models.service import PersonalModelService
from keyflock_server.personal_models.validation import PersonalModelValidator
from keyflock_server.runtime.certificate_watch import CertificateWatch
from keyflock_server.runtime.certificates import ServerCertificate
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.lifecycles import Lifecycle, LifecycleGroup
from keyflock_server.runtime.load import LoadMeter
from keyflock_server.runtime.numeric_libraries import NumericLibraries
from keyflock_server.runtime.ports import (
    OPERATORS,
    PHONES,
    load_port_certificates,
    operators_port,
    phones_port,
)
from keyflock_server.runtime.probes import Probes
from keyflock_server.runtime.server import Server
from keyflock_server.runtime.socketless_server import SocketlessServer
from keyflock_server.runtime.state_series import StateSeries
from keyflock_server.settings import Settings
from keyflock_server.storage.blobs import LocalBlobStore, blobs_at
from keyflock_server.storage.deletion_hold import HoldingBlobStore
from keyflock_server.storage.interfaces.blob_store import BlobStore
from keyflock_server.storage.sql.store import SqlStore
from keyflock_server.suggestions.blocked import may_show_from
from keyflock_server.suggestions.profile_cache import ProfileCache
from keyflock_server.suggestions.released_trunks import ReleasedTrunks
from keyflock_server.suggestions.service import SuggestionService
from keyflock_server.telemetry.logs import logger
from keyflock_server.telemetry.metrics import Metrics
from keyflock_server.telemetry.metrics_observer import MetricsObserver

_log: Final = logger("keyflock.server")
#: How long a process caches what it has read about users: alone, and where other processes may change it.
_PROFILE_TTL_ALONE: Final = timedelta(hours=1)
_PROFILE_TTL_SHARED: Final = timedelta(minutes=1)


def system_clock() -> datetime:
    """Return the current time, aware UTC."""
    return datetime.now(UTC)


def build_server(
    settings: Settings,
    clock: Clock = system_clock,
    attestation: Attestation | None = None,
    may_show: MayShow | None = None,
) -> Server:
    """Build a server from settings.

    Args:
        settings: The settings.
        clock: Returns the current time, aware UTC.
        attestation: Verifies phones at enrolment; None: every phone is accepted, and the log warns of it.
        may_show: Says which words may be suggested; None: by the settings of blocked words.
    Raises:
        CertificateError: fault of the operator; a certificate or its key cannot be used.
        DataFolderError: fault of the operator; the data folder cannot be used.
        KeyFileError: fault of the operator; a secret's file cannot be used.
        StorageError: fault of the operator; the URL of the database or of the blobs cannot be used.
    """
    meter = LoadMeter(settings.max_bodies_in_flight)
    certificates = load_port_certificates(settings)
    parts = _assemble(
        settings, clock, attestation or AcceptAll(), may_show, meter.load, certificates=certificates
    )
    heartbeat = Heartbeat(parts.lifecycle.tick, settings.tick_s, parts.metrics, on_lag=meter.record_lag)
    probes = Probes(parts.readiness, heartbeat, parts.metrics)
    sdk_port, body_limits = phones_port(
        settings,
        parts.sdk,
        probes.by_path(with_metrics=False),
        certificates.get(PHONES),
        parts.held_after_answer,
    )
    meter.in_flight = lambda: body_limits.in_flight
    return Server(
        parts.lifecycle,
        parts.folder,
        sdk_port=sdk_port,
        admin_port=operators_port(
            settings, parts.admin, probes.by_path(with_metrics=True), certificates.get(OPERATORS)
        ),
        readiness=parts.readiness,
        heartbeat=heartbeat,
        shutdown_grace_s=settings.shutdown_grace_s,
        end_streams=parts.events.close,
    )


def build_socketless_server(
    data_dir: Path,
    clock: Clock,
    *,
    seed: int | None = None,
    attestation: Attestation | None = None,
    **options: object,
) -> SocketlessServer:
    """Build a server inside the caller's event loop, on the caller's clock, without sockets.

    Args:
        data_dir: The server's data folder; with a seed, a new one.
        clock: Returns the current time, aware UTC: usually a simulation's.
        seed: Decides all secrets and ids, which stay in memory; None: they are random, as any server's.
        attestation: The same as for ``build_server``.
        options: Further fields of ``Settings``. By default, reports do not wait for their micro-batch
            (``ack_wait_s`` 0), because nothing would flush it while the caller waits.
    Raises:
        DataFolderError: fault of the caller; with a seed, the folder has been used, or the database or the
            blobs are elsewhere, where a server with random secrets may use them.
    """
    settings = Settings.read({"ack_wait_s": 0.0, **options, "data_dir": data_dir}, environment={})
    secrets = None
    if seed is not None:
        _require_storage_of_its_own(settings)
        secrets = seeded_secrets(seed)
    parts = _assemble(settings, clock, attestation or AcceptAll(), None, secrets=secrets, is_socketless=True)
    return SocketlessServer(
        parts.lifecycle,
        sdk=parts.sdk,
        admin=parts.admin,
        readiness=parts.readiness,
        admin_token=parts.admin_token,
        release=parts.folder.release,
    )


def _require_storage_of_its_own(settings: Settings) -> None:
    if settings.database or settings.blobs or (settings.data_dir / DATABASE_FILE).exists():
        raise DataFolderError(
            "A server whose secrets come from a seed needs a new data folder, with its database and blobs "
            "inside: whoever knows the seed knows its secrets, so no other server may share them."
        )


@dataclass(frozen=True, slots=True)
class _Components:
    folder: DataFolder
    admin_token: str
    lifecycle: Lifecycle
    sdk: SdkEndpoints
    admin: OperatorEndpoints
    readiness: Readiness
    metrics: Metrics
    events: EventHub
    #: Returns the bytes of phones' bodies that are still needed after their responses.
    held_after_answer: Callable[[], int]


def _assemble(
    settings: Settings,
    clock: Clock,
    attestation: Attestation,
    may_show: MayShow | None,
    load: Callable[[], float] = no_load,
    *,
    secrets: ServerSecrets | None = None,
    is_socketless: bool = False,
    certificates: Mapping[str, ServerCertificate] = MappingProxyType({}),
) -> _Components:
    head_keys = None if settings.head_keys is None else read_key_ring(settings.head_keys)
    user_keys = () if settings.user_keys is None else read_user_keys(settings.user_keys)
    may_show = may_show or may_show_from(settings.blocked_words, with_defaults=settings.default_blocked_words)
    folder = DataFolder.open(settings.data_dir)
    try:
        secrets = secrets or secrets_in(folder.path)
        store = SqlStore(settings.database or folder.database_url)
        blobs = HoldingBlobStore(_blobs_of(settings, folder), store.leases, clock)
    except BaseException:
        folder.release()
        raise
    _log_what_is_off(attestation, has_head_keys=head_keys is not None)
    metrics, readiness = Metrics(), Readiness()
    keys, owner_key = secrets.keys, secrets.owner_key
    revocations = Revocations(owner_key)
    assignment_tokens = AssignmentTokens(keys)
    replica = secrets.new_id()
    store.on_unchecked = _log_unchecked_database
    _log.info("storage", database=store.name, blobs=blobs.name, replica=replica)
    closing = ComputeThread(name="keyflock-rounds")
    recorder, events = EventRecorder(), EventHub(replica, clock, max_readers=_event_readers(settings))
    deps = Dependencies(
        store=store,
        writes=GroupCommit(store.group_writer),
        blobs=blobs,
        clock=clock,
        is_real_time=not is_socketless,
        tokens=assignment_tokens,
        owner_key=owner_key,
        users=Users(owner_key, user_keys),
        revocations=revocations,
        device_token_ttl_s=settings.device_token_ttl_s,
        token_grace_s=settings.token_grace_s,
        sampling_key=keys.derived("sampling"),
        new_id=secrets.new_id,
        observer=fan_out(MetricsObserver(metrics), recorder),
        compute=ComputeThread(1 if is_socketless else lanes_for_this_machine()),
        closing=closing,
        ack_wait_s=settings.ack_wait_s,
        load=load,
        replica=replica,
        is_sole=settings.database is None,
        lease_s=settings.lease_s,
    )
    coordinator = Coordinator(deps)
    languages, threads = PopulationModelInfos(coordinator.models), DecodeThreadPool()
    erasing = PersonalModelEraser(store, clock)
    coordinator.population_deletion.erase_models = erasing.erase
    lifecycles: list[Lifecycle] = [ClusterKeys(store, keys, owner_key), erasing, threads]
    maps = HeadMapService(coordinator.models, languages)
    heads, profiles, suggestions = None, None, None
    if head_keys is not None:
        checks = PersonalModelValidator(coordinator.models, languages, threads)
        quota = StoredModelQuota(store, settings.max_stored_model_bytes, clock, metrics)
        erasing.on_freed = quota.freed
        heads = PersonalModelService(store, head_keys, owner_key, erasing, checks, quota, clock)
        lifecycles += [quota, heads]
    if settings.suggestions:
        if heads is not None:
            profiles = ProfileCache(
                heads,
                languages,
                clock,
                metrics,
                threads=threads,
                max_bytes=settings.max_profile_bytes,
                ttl=_PROFILE_TTL_ALONE if settings.database is None else _PROFILE_TTL_SHARED,
            )
            heads.on_change = erasing.on_erased = profiles.drop
        suggestions = SuggestionService(
            ReleasedTrunks(coordinator.models, languages, maps, may_show),
            profiles,
            clock,
            metrics,
            waits_for_refresh=is_socketless,
        )
        lifecycles.append(suggestions)
    personal = PersonalEndpoints(erasing, maps, heads, suggestions)
    sdk = SdkEndpoints(
        enrolments=coordinator.enrolments,
        erasure=coordinator.erasure,
        exports=coordinator.exports,
        check_ins=coordinator.check_ins,
        reports=coordinator.reports,
        models=coordinator.models,
        downlink=coordinator.downlink,
        personal=personal,
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
    operator_tokens = OperatorTokens(store.api_tokens, ApiTokens(secrets.api_token_key), clock)
    admin = OperatorEndpoints(
        resources_of(coordinator, events, operator_tokens, personal),
        authenticator=TokenAuthenticator(secrets.admin_token, operator_tokens),
        creations=RepeatedCreations(store.idempotency, clock),
        clock=clock,
        readiness=readiness,
        metrics=metrics,
    )
    StateSeries(coordinator, clock, lambda: events.reader_count).show_in(metrics)
    if not is_socketless:
        lifecycles += [
            StreamTokenWatch(events, operator_tokens),
            EventWatch(deps, coordinator.registry, recorder, events, metrics),
            DescriptorWatch(metrics),
            CertificateWatch(certificates, metrics, clock),
            NumericLibraries(closing, coordinator.has_rounds_to_close),
        ]
    lifecycle = LifecycleGroup(coordinator, lifecycles)
    return _Components(
        folder,
        secrets.admin_token,
        lifecycle,
        sdk,
        admin,
        readiness,
        metrics,
        events,
        coordinator.reports.unattended_bytes,
    )


def _event_readers(settings: Settings) -> int:
    """Return how many readers of live events there may be: most connections are left to other calls."""
    connections = max_operator_connections(settings.max_operator_connections, descriptor_limit())
    return max(1, min(MAX_READERS, connections // 4))


def _log_what_is_off(attestation: Attestation, *, has_head_keys: bool) -> None:
    if attestation.warning:
        _log.warning(attestation.warning)
    if not has_head_keys:
        _log.info("heads are not stored: there are no head keys (--head-keys)")


def _blobs_of(settings: Settings, folder: DataFolder) -> BlobStore:
    return blobs_at(settings.blobs) if settings.blobs else LocalBlobStore(folder.blobs)


def _log_unchecked_database(database: str, within_s: float) -> None:
    _log.warning("only a part of the database was checked for damage", database=database, within_s=within_s)
