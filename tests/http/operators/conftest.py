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

from keyflock_server.http.application import application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.failed_attempts import FailedAttempts
from keyflock_server.http.operators.devices import DeviceResource
from keyflock_server.http.operators.endpoints import OperatorEndpoints
from keyflock_server.http.operators.events import EventResource
from keyflock_server.http.operators.populations import PopulationResource
from keyflock_server.http.operators.rounds import RoundResource
from keyflock_server.http.operators.tasks import TaskResource
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.identity.operators import Operator
from keyflock_server.live_events.hub import EventHub
from keyflock_server.protocol.identifiers import DeviceId, PopulationName, RoundId, TaskName
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.operator.devices import DeviceList, DeviceView, QuarantineOrder
from keyflock_server.protocol.operator.populations import (
    CohortPreview,
    DeletionOrder,
    PopulationDeleted,
    PopulationView,
    RenameOrder,
    RollbackOrder,
)
from keyflock_server.protocol.operator.rounds import DecisionOrder, RoundView
from keyflock_server.protocol.operator.tasks import TaskView
from keyflock_server.protocol.problems import ApiError, Problem, ProblemCode
from keyflock_server.protocol.roles import Role
from keyflock_server.rounds.task import TaskSpec
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.listeners import Listener
from keyflock_server.runtime.probes import Probes
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
    failure_of_all: Exception | None = None

    def note(self, name: str, argument: object) -> None:
        self.calls.append((name, argument))
        if self.failure_of_all is not None:
            raise self.failure_of_all

    async def resolve(self, name: str) -> PopulationName:
        if name != "en-US":
            raise ApiError(ProblemCode.POPULATION_UNKNOWN, "There is no such population here.")
        return PopulationName(name)

    async def create_population(self, name: PopulationName, checkpoint: bytes) -> PopulationView:
        self.note("create_population", (name, checkpoint))
        return POPULATION

    async def populations(self) -> list[PopulationView]:
        self.note("populations", None)
        return [POPULATION]

    async def roll_back(self, name: PopulationName, order: RollbackOrder) -> PopulationView:
        self.note("roll_back", (name, order))
        return POPULATION

    async def rename_population(self, name: PopulationName, order: RenameOrder) -> PopulationView:
        self.note("rename_population", (name, order))
        return POPULATION

    async def delete_population(self, name: PopulationName, order: DeletionOrder) -> PopulationDeleted:
        self.note("delete_population", (name, order))
        return PopulationDeleted(name=name, id=name, is_complete=True)

    async def preview_cohort(self, population: PopulationName, expression: str) -> CohortPreview:
        self.note("preview_cohort", (population, expression))
        return PREVIEW

    async def create_task(self, spec: TaskSpec) -> TaskView:
        self.note("create_task", spec)
        return TASK

    async def tasks(self) -> list[TaskView]:
        self.note("tasks", None)
        return [TASK]

    async def task(self, name: TaskName) -> TaskView:
        return self._known("task", name)

    async def pause_task(self, name: TaskName) -> TaskView:
        return self._known("pause_task", name)

    async def resume_task(self, name: TaskName) -> TaskView:
        return self._known("resume_task", name)

    async def cancel_task(self, name: TaskName) -> TaskView:
        return self._known("cancel_task", name)

    async def rounds(self, task: TaskName) -> list[RoundView]:
        self._known("rounds", task)
        return [ROUND]

    async def round(self, round_id: RoundId) -> RoundView:
        self.note("round", round_id)
        if round_id != ROUND.id:
            raise ApiError(ProblemCode.NOT_FOUND, f"There is no round {round_id}.")
        return ROUND

    async def accept_round(self, round_id: RoundId, order: DecisionOrder) -> RoundView:
        self.note("accept_round", (round_id, order))
        return ROUND

    async def discard_round(self, round_id: RoundId, order: DecisionOrder) -> RoundView:
        self.note("discard_round", (round_id, order))
        return ROUND

    async def devices(self, population: PopulationName) -> DeviceList:
        self.note("devices", population)
        return DeviceList(devices=[DEVICE], total=7)

    async def device(self, device: DeviceId) -> DeviceView:
        self.note("device", device)
        if device != DEVICE.id:
            raise ApiError(ProblemCode.NOT_FOUND, f"There is no device {device}.")
        return DEVICE

    async def quarantine_device(self, device: DeviceId, order: QuarantineOrder) -> DeviceView:
        self.note("quarantine_device", (device, order))
        return DEVICE

    async def release_device(self, device: DeviceId) -> DeviceView:
        self.note("release_device", device)
        return DEVICE

    async def revoke_device(self, device: DeviceId) -> None:
        self.note("revoke_device", device)

    def _known(self, name: str, task: TaskName) -> TaskView:
        self.note(name, task)
        if task != TASK.name:
            raise ApiError(ProblemCode.TASK_UNKNOWN, f"There is no task {task}.")
        return TASK


class ScriptedAuthenticator:
    """Knows one operator of each role, by the token ``the-<role>-token``."""

    async def operator(self, token: str) -> Operator | None:
        return next((Operator(role, role) for role in Role if token == f"the-{role}-token"), None)


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


@dataclass
class AdminPort:
    """The operators' port on real sockets, with its backend."""

    url: str
    session: aiohttp.ClientSession
    service: ScriptedOperatorServices
    readiness: Readiness
    sleep: GatedSleep
    #: Its streams end at once, unless a test gives them time.
    events: EventHub
    token: str = "the-admin-token"

    async def send(self, call: AnyCall, body: Any = None, **changed: str | None) -> AdminAnswer:  # noqa: ANN401
        """A good call, but for the body and headers that are given (None leaves a header out)."""
        headers: dict[str, str | None] = {"Authorization": f"Bearer {self.token}"}
        if call.max_body_bytes:
            headers["Content-Type"] = call.media_type
        headers.update({name.replace("_", "-"): value for name, value in changed.items()})
        path = call.path.format(population="en-US", task="next-word", round="next-word-1", device="phone-1")
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
    tasks: Any = SimpleNamespace(
        create=service.create_task,
        all=service.tasks,
        get=service.task,
        pause=service.pause_task,
        resume=service.resume_task,
        cancel=service.cancel_task,
        rounds=service.rounds,
        round=service.round,
        accept_round=service.accept_round,
        discard_round=service.discard_round,
    )
    populations: Any = SimpleNamespace(
        create=service.create_population,
        all=service.populations,
        roll_back=service.roll_back,
        rename=service.rename_population,
        delete=service.delete_population,
        preview_cohort=service.preview_cohort,
        resolve=service.resolve,
    )
    quarantines: Any = SimpleNamespace(
        devices=service.devices,
        device=service.device,
        quarantine=service.quarantine_device,
        release=service.release_device,
    )
    revocations: Any = SimpleNamespace(revoke=service.revoke_device)
    endpoints = OperatorEndpoints(
        [
            PopulationResource(populations),
            TaskResource(tasks),
            RoundResource(tasks),
            DeviceResource(quarantines, revocations),
            EventResource(events, populations),
        ],
        authenticator=ScriptedAuthenticator(),
        readiness=readiness,
        metrics=metrics,
        failed_attempts=FailedAttempts(metrics, sleep),
    )
    probes = Probes(readiness, Heartbeat(_nothing, 1.0, metrics), metrics)
    limits = BodyLimits(10, 10**9, 30.0, metrics)
    served = application(endpoints, limits, probes.by_path(with_metrics=True))
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0)
    async with aiohttp.ClientSession() as session:
        yield AdminPort(listener.url, session, service, readiness, sleep, events)
    await listener.close()


async def _nothing() -> None:
    """A heart that has nothing to do."""
