"""The phones' port on real sockets, in front of scripted services.

These tests are about the endpoints, not about the rounds behind them, which test_round_over_http.py tests
with the real coordinator.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec
import pytest

from keyflock_server.coordinator.downlink import ModelDelta
from keyflock_server.coordinator.enrolment import EnrolmentResult
from keyflock_server.coordinator.erasure import ErasureTargets
from keyflock_server.http.application import application
from keyflock_server.http.bodies import BodyLimits
from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.http.readiness import Readiness, ServerState
from keyflock_server.http.sdk import SdkEndpoints
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.attestation import AcceptAll
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.keys import SigningKeys
from keyflock_server.identity.owners import Owner
from keyflock_server.identity.revocations import Revocations
from keyflock_server.personal_models.service import StoredPersonalModel
from keyflock_server.protocol.calls import Call, Credential
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import (
    AssignmentId,
    DeviceId,
    ModelVersion,
    PopulationName,
    RoundId,
    TaskName,
)
from keyflock_server.protocol.messages import (
    Assignment,
    Blend,
    CheckIn,
    EnrolRequest,
    Failure,
    FailureAck,
    FailureCause,
    Forgotten,
    HeadErased,
    HeadStored,
    Offer,
    OfferAction,
    OfferAnswer,
    Receipt,
    Refusal,
    RefusalReason,
    Release,
    Report,
    ReturnWindow,
    Suggestion,
    SuggestionRequest,
    Suggestions,
)
from keyflock_server.protocol.plans import ModelWeights
from keyflock_server.protocol.problems import ApiError, Problem, ProblemCode
from keyflock_server.protocol.stored_data import StoredData
from keyflock_server.releases.model_version import Download
from keyflock_server.runtime.heartbeat import Heartbeat
from keyflock_server.runtime.listeners import Listener
from keyflock_server.runtime.probes import Probes
from keyflock_server.storage.errors import StorageError
from keyflock_server.telemetry.metrics import Metrics

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CONTRIBUTED_AT = NOW - timedelta(days=2)
WINDOW = ReturnWindow(min_s=60.0, max_s=120.0)
MODEL = b"model bytes " * 1000
RELEASED = b"average bytes " * 1000
PHONE = DeviceIdentity(DeviceId("phone-1"), PopulationName("en-US"))
CLAIMS = AssignmentClaims(
    assignment=AssignmentId("a-1"),
    device=PHONE.device,
    population=PHONE.population,
    task=TaskName("next-word"),
    round=RoundId("next-word-7"),
    model_version=ModelVersion(7),
    codec={"codec": "dense"},
    seed=1,
    layout=bytes(16),
    expires_at=NOW + timedelta(minutes=10),
)


@dataclass
class ScriptedSdkServices:
    """Answers like each service of the port; fails with ``failure_of_all``, reports wait for ``gate``."""

    #: From these downloads a delta leads to the model.
    steps: dict[bytes, bytes] = field(default_factory=dict)
    calls: list[tuple[str, object]] = field(default_factory=list)
    failure_of_all: Exception | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def note(self, name: str, message: object) -> None:
        self.calls.append((name, message))
        self.called.set()
        if self.failure_of_all is not None:
            raise self.failure_of_all

    async def enrol(
        self,
        request: EnrolRequest,
        shown: DeviceIdentity | None,
        *,
        user_proof: str | None = None,
        subject: str | None = None,
    ) -> EnrolmentResult:
        self.note("enrol", (shown, user_proof, subject))
        device = DeviceId("phone-new") if shown is None else shown.device
        return EnrolmentResult(
            device,
            PopulationName(request.population),
            int(shown is not None),
            WINDOW,
            tier=request.tier,
            tags=request.tags,
            last_contributed_at=CONTRIBUTED_AT,
        )

    async def targets(
        self, identity: DeviceIdentity, user: str | None = None, *, is_whole_user: bool = False
    ) -> ErasureTargets:
        self.note("erasure_scope", (identity, user, is_whole_user))
        owner = Owner(f"owner of {identity.device}")
        return ErasureTargets(devices=(identity.device,), owners={identity.population: (owner,)})

    async def stored_data(
        self, identity: DeviceIdentity, user: str | None = None, *, is_whole_user: bool = False
    ) -> StoredData:
        self.note("stored_data", (identity, user, is_whole_user))
        return StoredData(devices=())

    async def forget(self, devices: Sequence[DeviceId]) -> Forgotten:
        self.note("forget", devices)
        return Forgotten(devices=1)

    async def check_in(self, identity: DeviceIdentity, message: CheckIn) -> Assignment | Refusal:
        self.note("check_in", (identity, message))
        return Refusal(reason=RefusalReason.NOT_SAMPLED, return_window=WINDOW)

    async def training_model(self, population: PopulationName, version: int) -> Download:
        self.note("model", (population, version))
        if version != 7:
            raise ApiError(ProblemCode.MODEL_UNKNOWN, f"There is no version {version}.")
        return Download(MODEL, hashlib.sha256(MODEL).digest())

    async def released_model(self, population: PopulationName, version: int) -> Download:
        self.note("released_model", (population, version))
        return Download(RELEASED, hashlib.sha256(RELEASED).digest())

    async def delta(
        self, population: PopulationName, version: int, weights: ModelWeights, has: Collection[bytes]
    ) -> ModelDelta | None:
        self.note("model_delta", (population, version, weights, set(has)))
        return next((ModelDelta(self.steps[base], base) for base in has if base in self.steps), None)

    async def resolve_for_phone(self, name: str) -> PopulationName:
        if not name.isprintable():  # as PostgreSQL does
            raise StorageError("The database does not take a value that it was given.")
        return PopulationName({"former": "en-US"}.get(name, name))

    async def release(self, population: PopulationName, device: DeviceId | None = None) -> Release:
        self.note("release", (population, device))
        return Release(
            population=population,
            model_version=ModelVersion(7),
            model_digest=hashlib.sha256(MODEL).digest(),
            size_bytes=len(MODEL),
            vocabulary="ab",
            layout=bytes(16),
        )

    async def vocabulary(self, population: PopulationName) -> bytes:
        self.note("vocabulary", population)
        return b"the\nof\nto\n"

    async def offer(self, claims: AssignmentClaims, message: Offer) -> OfferAnswer:
        self.note("offer", (claims, message))
        return OfferAnswer(action=OfferAction.SEND, return_window=WINDOW)

    async def report(self, claims: AssignmentClaims, message: Report) -> Receipt:
        self.note("report", (claims, message))
        await self.gate.wait()
        return Receipt(counted=True, return_window=WINDOW)

    async def failure(self, claims: AssignmentClaims, message: Failure) -> FailureAck:
        self.note("failure", (claims, message))
        return FailureAck(return_window=WINDOW)

    async def put(self, identity: DeviceIdentity, data: bytes, condition: bytes | None) -> HeadStored:
        self.note("put_head", (identity, data, condition))
        return HeadStored(tag=b"\x01\x02", size_bytes=len(data))

    async def get(self, identity: DeviceIdentity) -> StoredPersonalModel:
        self.note("get_head", identity)
        return StoredPersonalModel(b"head bytes", b"\x01\x02")

    async def delete(self, identity: DeviceIdentity) -> HeadErased:
        self.note("delete_head", identity)
        return HeadErased(heads=1)

    async def erase(self, population: PopulationName, owners: Sequence[Owner]) -> HeadErased:
        self.note("erase", (population, owners))
        return HeadErased(heads=1, is_scrubbed=False)

    async def map_to(self, population: PopulationName, version: int) -> Download:
        self.note("head_map", (population, version))
        return Download(b"map bytes", hashlib.sha256(b"map bytes").digest())

    def owner_changed(self, device: DeviceId) -> None:
        """Do nothing; nothing is cached."""

    async def suggest(self, identity: DeviceIdentity, request: SuggestionRequest) -> Suggestions:
        self.note("suggest", (identity, request))
        words = (Suggestion(word="the", probability=0.5),)
        return Suggestions(suggestions=words, model_version=ModelVersion(7), blend=Blend.GLOBAL)


#: A valid body of each call that takes one.
BODIES: dict[str, Message] = {
    "enrol": EnrolRequest(protocol=1, population="en-US", app_build=1, locale="en-US"),
    "check_in": CheckIn(protocol=1, app_build=1, locale="en-US"),
    "offer": Offer(size_bytes=10, model_version=ModelVersion(7)),
    "report": Report(delta=b"delta bytes", examples=3),
    "failure": Failure(cause=FailureCause.INTERRUPTED),
    "suggest": SuggestionRequest(context="how are"),
}


@dataclass
class HttpAnswer:
    """A complete response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def problem(self) -> Problem:
        """The problem document; its status is the answer's."""
        assert self.headers["Content-Type"] == "application/problem+msgpack", self.body
        document = msgspec.msgpack.decode(self.body, type=Problem)
        assert document.status == self.status
        assert ("Retry-After" in self.headers) == (document.retry is not None)
        assert self.headers["Cache-Control"] == "no-store"
        return document

    def code(self) -> ProblemCode:
        return self.problem().code


@dataclass
class SdkPort:
    """The phones' port on real sockets, with its backend and its tokens."""

    url: str
    session: aiohttp.ClientSession
    service: ScriptedSdkServices
    readiness: Readiness
    metrics: Metrics
    keys: SigningKeys
    endpoints: SdkEndpoints
    body_limits: BodyLimits
    revocations: Revocations
    now: datetime = NOW
    phone: DeviceIdentity = PHONE
    claims: AssignmentClaims = CLAIMS
    model: bytes = MODEL

    def good_body(self, call: Call) -> bytes:
        """A body that the call takes."""
        if call.request is None:
            return b"raw bytes"
        return msgspec.msgpack.encode(BODIES[call.name])

    def device_token(self, identity: DeviceIdentity = PHONE, *, age_s: float = 0.0) -> str:
        tokens = DeviceTokens(self.keys, ttl_s=3600.0)
        return tokens.issue(identity, self.now - timedelta(seconds=age_s))

    def assignment_token(self, claims: AssignmentClaims = CLAIMS) -> str:
        return AssignmentTokens(self.keys).issue(claims)

    def headers(self, call: Call) -> dict[str, str]:
        """The headers of a good call."""
        headers = {}
        if call.credential is not Credential.NONE:
            headers["Authorization"] = f"Bearer {self.device_token()}"
        if call.credential is Credential.ASSIGNMENT:
            headers["Keyflock-Assignment"] = self.assignment_token()
        if call.max_body_bytes:
            headers["Content-Type"] = call.media_type
        return headers

    async def send(self, call: Call, body: Any = None, **changed: str | None) -> HttpAnswer:  # noqa: ANN401 - as aiohttp
        """A good call, but for the body and headers that are given (None leaves a header out)."""
        headers: dict[str, str | None] = {**self.headers(call)}
        headers.update({name.replace("_", "-"): value for name, value in changed.items()})
        if body is None and call.max_body_bytes:
            body = self.good_body(call)
        return await self.request(
            call.method,
            call.path.format(version=7, population="en-US", assignment="a-1"),
            body,
            {name: value for name, value in headers.items() if value is not None},
        )

    async def request(self, method: str, path: str, body: Any = None, headers: Any = None) -> HttpAnswer:  # noqa: ANN401
        if isinstance(body, bytes):
            body = io.BytesIO(body)  # as aiohttp wants large ones
        async with self.session.request(
            method, self.url + path, data=body, headers=headers, skip_auto_headers=["Content-Type"]
        ) as response:
            return HttpAnswer(response.status, response.headers, await response.read())


@dataclass(frozen=True)
class PortLimits:
    """The limits on the port's request bodies."""

    max_bodies: int = 100
    max_bytes: int = 100_000_000
    timeout_s: float = 30.0


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> PortLimits:
    """Changed by tests of the limits, as an indirect parameter."""
    return PortLimits(**getattr(request, "param", {}))


@pytest.fixture
async def sdk_port(limits: PortLimits) -> AsyncIterator[SdkPort]:
    service, readiness, metrics = ScriptedSdkServices(), Readiness(), Metrics()
    scripted: Any = service  # in the place of each service
    readiness.state = ServerState.READY
    keys, revocations = SigningKeys.of(bytes(range(32))), Revocations(b"owner key")
    endpoints = SdkEndpoints(
        enrolments=scripted,
        erasure=scripted,
        exports=scripted,
        check_ins=scripted,
        reports=scripted,
        models=scripted,
        downlink=scripted,
        personal=PersonalEndpoints(scripted, scripted, scripted, scripted),
        device_tokens=DeviceTokens(keys, ttl_s=3600.0),
        revocations=revocations,
        assignment_tokens=AssignmentTokens(keys),
        attestation=AcceptAll(),
        clock=lambda: NOW,
        readiness=readiness,
        metrics=metrics,
    )
    probes = Probes(readiness, Heartbeat(_nothing, 1.0, metrics), metrics)
    body_limits = BodyLimits(limits.max_bodies, limits.max_bytes, limits.timeout_s, metrics)
    served = application(endpoints, body_limits, probes.by_path(with_metrics=True))
    listener = await Listener.open(served, "127.0.0.1", 0, shutdown_grace_s=1.0)
    async with aiohttp.ClientSession() as session:
        yield SdkPort(
            listener.url, session, service, readiness, metrics, keys, endpoints, body_limits, revocations
        )
    await listener.close()


async def _nothing() -> None:
    """A heart that has nothing to do."""
