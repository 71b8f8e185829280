"""The operators' port on a real socket, before a service that knows one population, task and round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.http.operators.scripted_audit import ScriptedAudit
from tests.http.operators.scripted_releases import ScriptedReleases
from tests.memory_store.store import MemoryStore

from keyflock_server.audit.context import AuditContext
from keyflock_server.coordinator.operator_lists import Page
from keyflock_server.coordinator.operator_tokens import OperatorTokens
from keyflock_server.http.application import application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.failed_attempts import FailedAttempts
from keyflock_server.http.operators.audit import AuditResource
from keyflock_server.http.operators.authentication import TokenAuthenticator
from keyflock_server.http.operators.devices import DeviceResource
from keyflock_server.http.operators.documentation import DocumentationResource
from keyflock_server.http.operators.endpoints import OperatorEndpoints
from keyflock_server.http.operators.events import EventResource
from keyflock_server.http.operators.forecasts import ForecastResource
from keyflock_server.http.operators.personal_models import PersonalModelResource
from keyflock_server.http.operators.populations import PopulationResource
from keyflock_server.http.operators.releases import ReleaseResource
from keyflock_server.http.operators.repeated_creations import RepeatedCreations
from keyflock_server.http.operators.rounds import RoundResource
from keyflock_server.http.operators.tasks import TaskResource
from keyflock_server.http.operators.tokens import TokenResource
from keyflock_server.http.operators.versions import VersionResource
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.identity.api_tokens import ApiTokens
from keyflock_server.identity.operators import Operator
from keyflock_server.live_events.hub import EventHub
from keyflock_server.protocol.identifiers import DeviceId, ModelVersion, PopulationName, RoundId, TaskName
from keyflock_server.protocol.messages import Forgotten
from keyflock_server.protocol.operator.call import AnyCall, ReasonOrder, ReasonQuery
from keyflock_server.protocol.operator.devices import DeviceQuery, DeviceView, QuarantineOrder
from keyflock_server.protocol.operator.forecasts import TaskForecast
from keyflock_server.protocol.operator.personal_models import PersonalModelsView
from keyflock_server.protocol.operator.populations import (
    CohortPreview,
    DeletionOrder,
    PopulationDeleted,
    PopulationView,
    RenameOrder,
    RollbackOrder,
)
from keyflock_server.protocol.operator.rounds import RoundProgress, RoundView, SessionCount
from keyflock_server.protocol.operator.tasks import TaskEvent, TaskHistory, TaskView
from keyflock_server.protocol.operator.versions import VersionComparison, VersionView
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, Problem, ProblemCode
from keyflock_server.protocol.roles import Role
from keyflock_server.releases.model_version import Download
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.listeners import Listener
from keyflock_server.runtime.probes import Probes
from keyflock_server.storage.interfaces.listings import RoundPlace, TaskPlace
from keyflock_server.telemetry.metrics import Metrics

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
POPULATION = PopulationView(name="en-US", model_version=0, parameter_count=12, vocabulary_size=3, devices=0)
PREVIEW = CohortPreview(
    population="en-US", cohort="tier >= 2", enrolled=10, matching=4, active=6, active_matching=3
)
TASK = TaskView(
    name="next-word",
    population="en-US",
    state="active",
    created_at=NOW,
    rounds_committed=1,
    rounds_abandoned=0,
    max_rounds=None,
    spec={"round": {"goal": 8}},
)
ROUND = RoundView(
    id="next-word-1",
    task="next-word",
    sequence=1,
    phase="closed",
    model_version=0,
    goal=8,
    minimum=4,
    assigned=10,
    counted=8,
    weight=80.0,
    opened_at=NOW,
    deadline_at=NOW + timedelta(minutes=10),
)

PROGRESS = RoundProgress(
    round="next-word-1",
    opened_at=NOW,
    closed_at=None,
    assigned=10,
    downloaded=9,
    trained=9,
    uploaded=8,
    counted=8,
    sessions=[SessionCount(state="counted", shape="-v[]+^", count=8)],
    first_report_s=10.0,
    p50_report_s=20.0,
    p95_report_s=None,
    verdicts={},
    failures={"interrupted": 1},
)
VERSION = VersionView(
    population="en-US",
    version=7,
    parent=6,
    created_at=NOW,
    download_bytes=4,
    download_sha256="01" * 32,
    revision="r7",
)
DEVICE = DeviceView(
    id="phone-1",
    population="en-US",
    app_build=5,
    locale="en-US",
    enrolled_at=NOW,
    last_seen_at=NOW,
    is_quarantined=True,
    quarantined_until=NOW + timedelta(days=3),
    reason="Refused reports in 3 of its rounds within 7 days: too_long, too_long, malformed.",
    quarantined_by="policy",
    quarantines=1,
)


@dataclass
class ScriptedOperatorServices:
    """Knows one population, one task and one round."""

    calls: list[tuple[str, object]] = field(default_factory=list)
    #: Who made the changes, and why.
    audits: list[AuditContext] = field(default_factory=list)
    failure_of_all: Exception | None = None

    def note(self, name: str, argument: object) -> None:
        self.calls.append((name, argument))
        if self.failure_of_all is not None:
            raise self.failure_of_all

    async def resolve(self, name: str) -> PopulationName:
        if name != "en-US":
            raise ApiError(ProblemCode.POPULATION_UNKNOWN, "There is no such population here.")
        return PopulationName(name)

    async def create_population(
        self, name: PopulationName, checkpoint: bytes, *, audit: AuditContext
    ) -> PopulationView:
        self.audits.append(audit)
        self.note("create_population", (name, checkpoint))
        return POPULATION

    async def populations(self, after: str | None, limit: int, **wanted: object) -> Page[PopulationView, str]:
        self.note("populations", (after, limit, wanted))
        return Page([POPULATION], "en-US")

    async def roll_back(
        self, name: PopulationName, order: RollbackOrder, *, audit: AuditContext
    ) -> PopulationView:
        self.audits.append(audit)
        self.note("roll_back", (name, order))
        return POPULATION

    async def rename_population(
        self, name: PopulationName, order: RenameOrder, *, audit: AuditContext
    ) -> PopulationView:
        self.audits.append(audit)
        self.note("rename_population", (name, order))
        return POPULATION

    async def delete_population(
        self, name: PopulationName, order: DeletionOrder, *, audit: AuditContext
    ) -> PopulationDeleted:
        self.audits.append(audit)
        self.note("delete_population", (name, order))
        return PopulationDeleted(name=name, id=name, is_complete=True)

    async def preview_cohort(self, population: PopulationName, expression: str) -> CohortPreview:
        self.note("preview_cohort", (population, expression))
        return PREVIEW

    async def forecast_task(self, spec: TaskSpec) -> TaskForecast:
        self.note("forecast_task", spec)
        return TaskForecast(is_accepted=True, problems=[], conflicts=[])

    async def create_task(self, spec: TaskSpec, *, audit: AuditContext) -> TaskView:
        self.audits.append(audit)
        self.note("create_task", spec)
        return TASK

    async def tasks(self, after: TaskPlace | None, limit: int, **wanted: object) -> Page[TaskView, TaskPlace]:
        self.note("tasks", (after, limit, wanted))
        return Page([TASK], TaskPlace(NOW, TaskName("next-word")))

    async def task(self, name: TaskName) -> TaskView:
        return self._known("task", name)

    async def pause_task(self, name: TaskName, *, until: datetime | None, audit: AuditContext) -> TaskView:
        self.audits.append(audit)
        self.until = until
        return self._known("pause_task", name)

    async def change_task(
        self, name: TaskName, values: Mapping[str, object], *, audit: AuditContext
    ) -> TaskView:
        self.audits.append(audit)
        self.values = values
        return self._known("change_task", name)

    async def set_task_archived(self, name: TaskName, *, is_archived: bool, audit: AuditContext) -> TaskView:
        self.audits.append(audit)
        return self._known("archive_task" if is_archived else "unarchive_task", name)

    async def task_history(self, name: TaskName, limit: int) -> TaskHistory:
        self._known("task_history", name)
        return TaskHistory(items=[TaskEvent(at=NOW, what="task.pause", operator="root")][:limit])

    async def set_population_archived(
        self, name: PopulationName, *, is_archived: bool, audit: AuditContext
    ) -> PopulationView:
        self.audits.append(audit)
        self.note("archive_population" if is_archived else "unarchive_population", name)
        return POPULATION

    async def revision(self, _name: str) -> int:
        return 7

    async def close_round(self, round_id: RoundId, *, audit: AuditContext) -> RoundView:
        self.audits.append(audit)
        self.note("close_round", round_id)
        return ROUND

    async def abandon_round(self, round_id: RoundId, *, drops: bool, audit: AuditContext) -> RoundView:
        self.audits.append(audit)
        self.drops = drops
        self.note("abandon_round", round_id)
        return ROUND

    async def resume_task(self, name: TaskName, *, audit: AuditContext) -> TaskView:
        self.audits.append(audit)
        return self._known("resume_task", name)

    async def cancel_task(self, name: TaskName, *, audit: AuditContext) -> TaskView:
        self.audits.append(audit)
        return self._known("cancel_task", name)

    async def rounds(
        self, after: RoundPlace | None, limit: int, **wanted: object
    ) -> Page[RoundView, RoundPlace]:
        self.note("rounds", (after, limit, wanted))
        return Page([ROUND], None)

    async def round(self, round_id: RoundId) -> RoundView:
        self.note("round", round_id)
        if round_id != ROUND.id:
            raise ApiError(ProblemCode.NOT_FOUND, f"There is no round {round_id}.")
        return ROUND

    async def accept_round(self, round_id: RoundId, *, audit: AuditContext) -> RoundView:
        self.audits.append(audit)
        self.note("accept_round", round_id)
        return ROUND

    async def discard_round(self, round_id: RoundId, *, audit: AuditContext) -> RoundView:
        self.audits.append(audit)
        self.note("discard_round", round_id)
        return ROUND

    async def devices(
        self, population: PopulationName, after: DeviceId | None, limit: int, query: DeviceQuery
    ) -> Page[DeviceView, DeviceId]:
        self.note("devices", (population, after, limit, query))
        return Page([DEVICE], DeviceId("phone-1"))

    async def device(self, device: DeviceId) -> DeviceView:
        self.note("device", device)
        if device != DEVICE.id:
            raise ApiError(ProblemCode.NOT_FOUND, f"There is no device {device}.")
        return DEVICE

    async def quarantine_device(
        self, device: DeviceId, order: QuarantineOrder, *, audit: AuditContext
    ) -> DeviceView:
        self.audits.append(audit)
        self.note("quarantine_device", (device, order))
        return DEVICE

    async def release_device(self, device: DeviceId, *, audit: AuditContext) -> DeviceView:
        self.audits.append(audit)
        self.note("release_device", device)
        return DEVICE

    async def erasure_targets(self, device: DeviceId) -> DeviceId:
        return device

    async def forget_with_models(self, target: DeviceId, forget: Any) -> Forgotten:  # noqa: ANN401 - a handler's
        forgotten: Forgotten = await forget([target])
        return forgotten

    async def forget_device(self, devices: list[DeviceId], *, audit: AuditContext) -> Forgotten:
        self.note("forget_device", devices)
        self.audits.append(audit)
        return Forgotten(devices=1, heads=0, is_scrubbed=True)

    async def round_progress(self, round_id: RoundId) -> RoundProgress:
        self.note("round_progress", round_id)
        return PROGRESS

    async def personal_models(self, population: str) -> PersonalModelsView:
        self.note("personal_models", population)
        return PersonalModelsView(population=population, models=3, stored_bytes=12, gains=[])

    async def versions(
        self, population: str, before: int | None, limit: int
    ) -> Page[VersionView, ModelVersion]:
        self.note("versions", (population, before, limit))
        return Page([VERSION], ModelVersion(7))

    async def version(self, population: str, version: int) -> VersionView:
        self.note("version", (population, version))
        return VERSION

    async def compare_versions(self, population: str, version: int, base: int) -> VersionComparison:
        self.note("compare_versions", (population, version, base))
        return VersionComparison(version=VERSION, base=VERSION, distance=0.0, max_difference=0.0, tensors=[])

    async def version_checkpoint(self, population: str, version: int) -> bytes:
        self.note("version_checkpoint", (population, version))
        return b"weights"

    async def version_download(self, population: str, version: int, weights: ModelWeights) -> Download:
        self.note("version_download", (population, version, weights))
        return Download(b"rows", b"\x01" * 32)

    async def set_pinned(
        self, population: str, version: int, *, is_pinned: bool, audit: AuditContext
    ) -> VersionView:
        self.note("pin_version" if is_pinned else "unpin_version", (population, version, audit))
        return VERSION

    async def version_revision(self, _population: str, _version: int) -> str:
        return VERSION.revision

    async def revoke_device(self, device: DeviceId, *, audit: AuditContext) -> None:
        self.audits.append(audit)
        self.note("revoke_device", device)

    def _known(self, name: str, task: TaskName) -> TaskView:
        self.note(name, task)
        if task != TASK.name:
            raise ApiError(ProblemCode.TASK_UNKNOWN, f"There is no task {task}.")
        return TASK


class ScriptedAuthenticator:
    """Knows one operator of each role, by the token ``the-<role>-token``, and all stored tokens."""

    def __init__(self, tokens: OperatorTokens) -> None:
        self._stored = TokenAuthenticator("the-root-token", tokens)

    async def operator(self, token: str) -> Operator | None:
        known = next((Operator(role, role) for role in Role if token == f"the-{role}-token"), None)
        return known or await self._stored.operator(token)


@dataclass
class SetClock:
    """A clock that a test sets."""

    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass
class GatedSleep:
    """Lets waits pass at once, unless its gate is closed."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, _duration_s: float) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1


PATH_PARAMS = {
    "population": "en-US",
    "task": "next-word",
    "round": "next-word-1",
    "device": "phone-1",
    "version": "7",
    "token_id": "aaaabbbbccccdddd",
    "sequence": "7",
}
#: The query strings of calls that need one.
QUERIES = {"compare_versions": "?base=6"}


def path_of(call: AnyCall) -> str:
    """A good address of the call, with the query string that it needs."""
    return call.path.format_map(PATH_PARAMS) + QUERIES.get(call.name, "")


@dataclass
class AdminPort:
    """The operators' port on real sockets, with its backend."""

    url: str
    session: aiohttp.ClientSession
    service: ScriptedOperatorServices
    readiness: Readiness
    sleep: GatedSleep
    store: MemoryStore
    tokens: OperatorTokens
    clock: SetClock
    #: Its streams end at once, unless a test gives them time.
    events: EventHub
    token: str = "the-admin-token"

    async def send(self, call: AnyCall, body: Any = None, **changed: str | None) -> AdminAnswer:  # noqa: ANN401
        """A good call, but for the body and headers that are given (None leaves a header out)."""
        headers: dict[str, str | None] = {"Authorization": f"Bearer {self.token}"}
        if call.max_body_bytes:
            headers["Content-Type"] = call.media_type
        headers.update({name.replace("_", "-"): value for name, value in changed.items()})
        path = path_of(call)
        if call.query is ReasonQuery:
            path += "?reason=a+test"
        if issubclass(call.body, ReasonOrder) and body is None:
            body = b'{"reason": "a test"}'
        return await self.request(
            call.method, path, body, {name: value for name, value in headers.items() if value is not None}
        )

    async def request(self, method: str, path: str, body: Any = None, headers: Any = None) -> AdminAnswer:  # noqa: ANN401
        async with self.session.request(
            method, self.url + path, data=body, headers=headers, skip_auto_headers=["Content-Type"]
        ) as response:
            body = await response.read()
            is_json = response.content_type.endswith("json")
            return AdminAnswer(
                response.status, response.headers, msgspec.json.decode(body) if is_json else body
            )


@dataclass
class AdminAnswer:
    """A response, decoded if it is JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def code(self) -> str:
        """The problem's code; the document is complete and its status is the answer's."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        assert msgspec.convert(self.body, Problem).status == self.status
        return str(self.body["code"])


@pytest.fixture
async def admin_port() -> AsyncIterator[AdminPort]:
    service, readiness, metrics = ScriptedOperatorServices(), Readiness(), Metrics()
    readiness.state = ServerState.READY
    sleep, events = GatedSleep(), EventHub("process", lambda: NOW, max_stream_s=0.0)
    store, clock = MemoryStore(), SetClock()
    tokens = OperatorTokens(store.api_tokens, ApiTokens(b"k" * 32), clock)
    tasks: Any = SimpleNamespace(
        create=service.create_task,
        get=service.task,
        pause=service.pause_task,
        resume=service.resume_task,
        cancel=service.cancel_task,
        change=service.change_task,
        set_archived=service.set_task_archived,
        revision=service.revision,
        close_round=service.close_round,
        abandon_round=service.abandon_round,
        round=service.round,
        accept_round=service.accept_round,
        discard_round=service.discard_round,
    )
    populations: Any = SimpleNamespace(
        create=service.create_population,
        roll_back=service.roll_back,
        rename=service.rename_population,
        delete=service.delete_population,
        preview_cohort=service.preview_cohort,
        resolve=service.resolve,
        set_archived=service.set_population_archived,
        revision=service.revision,
    )
    histories: Any = SimpleNamespace(history=service.task_history)
    quarantines: Any = SimpleNamespace(
        device=service.device,
        quarantine=service.quarantine_device,
        release=service.release_device,
    )
    lists: Any = SimpleNamespace(
        populations=service.populations,
        tasks=service.tasks,
        rounds=service.rounds,
        devices=service.devices,
    )
    reading: Any = SimpleNamespace(progress=service.round_progress, personal_models=service.personal_models)
    versions: Any = SimpleNamespace(
        list=service.versions,
        get=service.version,
        compare=service.compare_versions,
        checkpoint=service.version_checkpoint,
        download=service.version_download,
        set_pinned=service.set_pinned,
        revision=service.version_revision,
    )
    revocations: Any = SimpleNamespace(revoke=service.revoke_device)
    erasure: Any = SimpleNamespace(targets_of=service.erasure_targets, forget=service.forget_device)
    personal: Any = SimpleNamespace(forget=service.forget_with_models)
    releases: Any = ScriptedReleases(service.note, service.audits)
    endpoints = OperatorEndpoints(
        [
            PopulationResource(populations, lists),
            TaskResource(tasks, lists, histories),
            ForecastResource(SimpleNamespace(forecast=service.forecast_task)),  # type: ignore[arg-type]
            RoundResource(tasks, lists, reading),
            DeviceResource(quarantines, revocations, lists, erasure, personal),
            VersionResource(versions),
            PersonalModelResource(reading),
            AuditResource(ScriptedAudit(service.note)),  # type: ignore[arg-type]
            EventResource(events, populations),
            ReleaseResource(releases),
            TokenResource(tokens),
            DocumentationResource(),
        ],
        authenticator=ScriptedAuthenticator(tokens),
        creations=RepeatedCreations(store.idempotency, clock),
        clock=clock,
        readiness=readiness,
        metrics=metrics,
        failed_attempts=FailedAttempts(metrics, sleep),
    )
    probes = Probes(readiness, Heartbeat(_nothing, 1.0, metrics), metrics)
    limits = BodyLimits(10, 10**9, 30.0, metrics)
    served = application(endpoints, limits, probes.by_path(with_metrics=True))
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0)
    async with aiohttp.ClientSession() as session:
        yield AdminPort(listener.url, session, service, readiness, sleep, store, tokens, clock, events)
    await listener.close()


async def _nothing() -> None:
    """A heart that has nothing to do."""
