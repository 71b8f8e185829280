"""The endpoints that phones call: credentials, bytes to messages, the coordinator's answer to bytes."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from keyflock_server.http import caching
from keyflock_server.http.admission import Admission, missing
from keyflock_server.http.documents import MSGPACK
from keyflock_server.http.enrolment_limits import EnrolmentLimits
from keyflock_server.http.model_downloads import ModelDownloads
from keyflock_server.http.personal import PersonalCalls
from keyflock_server.http.plane import Clock, Plane, bearer
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.routes import Routes
from keyflock_server.http.services import SdkService
from keyflock_server.http.tagged import tagged
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.attestation import Attestation
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.revocations import Revocations
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Credential, Request, Response
from keyflock_server.protocol.messages import (
    PROTOCOL,
    Assignment,
    CheckIn,
    Enrolment,
    EnrolRequest,
    Failure,
    Offer,
    Report,
)
from keyflock_server.protocol.problems import ProblemCode, Refused
from keyflock_server.rounds.codec_choice import network_of
from keyflock_server.telemetry.metrics import Metrics

T = TypeVar("T")


class _Spoken(msgspec.Struct):
    """As much of a message as must be understood to say that the rest is not."""

    protocol: int


class _ReceivedReport(Report, frozen=True, kw_only=True):
    """A report whose delta is a part of the body that it came in: there is no second copy of it."""

    delta: memoryview  # type: ignore[assignment]  # as good as bytes to whoever reads it


class SdkEndpoints(Plane[Call, Admission]):
    """Everything in ``protocol.calls.CALLS``.

    Args:
        service: The coordinator.
        personal: Heads and suggestions.
        device_tokens: Issues and reads device tokens.
        revocations: Knows which of them are void.
        assignment_tokens: Reads assignment tokens.
        attestation: Judges a phone's evidence at enrolment.
        clock: Gives now, aware UTC.
        readiness: Whether to take work now.
        metrics: Where outcomes are counted.
        enrolment_limits: How many phones may enrol; None: any number. A refresh is no enrolment.
    """

    def __init__(
        self,
        service: SdkService,
        personal: PersonalCalls,
        *,
        device_tokens: DeviceTokens,
        revocations: Revocations,
        assignment_tokens: AssignmentTokens,
        attestation: Attestation,
        clock: Clock,
        readiness: Readiness,
        metrics: Metrics,
        enrolment_limits: EnrolmentLimits | None = None,
    ) -> None:
        super().__init__(
            Routes(calls.CALLS),
            MSGPACK,
            media_types={call.name: call.media_type for call in calls.CALLS},
            readiness=readiness,
            metrics=metrics,
        )
        self._service = service
        self._personal = personal
        self._device_tokens = device_tokens
        self._revocations = revocations
        self._assignment_tokens = assignment_tokens
        self._attestation = attestation
        self._clock = clock
        self._enrolment_limits = enrolment_limits
        downloads = ModelDownloads(service, metrics)
        self._handlers: dict[str, Callable[[Admission, bytes], Awaitable[Response]]] = {
            calls.ENROL.name: self._enrol,
            calls.FORGET.name: self._forget,
            calls.CHECK_IN.name: self._check_in,
            calls.MODEL.name: downloads.model,
            calls.RELEASED_MODEL.name: downloads.released,
            calls.RELEASE.name: self._release,
            calls.VOCABULARY.name: self._vocabulary,
            calls.OFFER.name: self._offer,
            calls.REPORT.name: self._report,
            calls.FAILURE.name: self._failure,
            calls.GET_HEAD.name: personal.get_head,
            calls.PUT_HEAD.name: personal.put_head,
            calls.DELETE_HEAD.name: personal.delete_head,
            calls.HEAD_MAP.name: personal.head_map,
            calls.SUGGEST.name: personal.suggest,
        }

    def _admit(
        self, call: Call, parts: Mapping[str, str], headers: Mapping[str, str], head: Request
    ) -> Admission:
        now = self._clock()
        token = bearer(headers)
        if call.credential is Credential.NONE:
            device = None if token is None else self._device_tokens.read_for_refresh(token, now)
            self._refuse_void(device)
            if device is None and self._enrolment_limits is not None:
                self._enrolment_limits.admit(head, now.timestamp())
            return Admission(parts, headers, device)
        if token is None:
            raise missing("Authorization: Bearer <token>")
        device = self._device_tokens.read(token, now)
        self._refuse_void(device)
        if call.credential is Credential.DEVICE:
            return Admission(parts, headers, device, query=head.path.partition("?")[2])
        return Admission(parts, headers, device, self._claims(call, parts, headers, device))

    def _refuse_void(self, device: DeviceIdentity | None) -> None:
        if device is not None:
            self._revocations.check(device, self._clock())

    def _claims(
        self, call: Call, parts: Mapping[str, str], headers: Mapping[str, str], device: DeviceIdentity
    ) -> AssignmentClaims:
        token = headers.get(calls.ASSIGNMENT_HEADER.lower())
        if token is None:
            raise missing(calls.ASSIGNMENT_HEADER)
        if call.name == calls.REPORT.name:
            # What was counted is acknowledged whenever it is asked; the coordinator takes nothing new.
            claims = self._assignment_tokens.read_late(token)
        else:
            claims = self._assignment_tokens.read(token, self._clock())
        if claims.device != device.device or claims.population != device.population:
            raise Refused(ProblemCode.WRONG_ASSIGNMENT, "The assignment was given to another device.")
        if claims.assignment != parts["assignment"]:
            raise Refused(
                ProblemCode.WRONG_ASSIGNMENT, "The token is for another assignment than the address."
            )
        return claims

    async def _act(self, call: Call, admission: Admission, body: bytes) -> Response:
        self._refuse_void(admission.device)  # a slow body may outlive its token
        return await self._handlers[call.name](admission, body)

    async def _enrol(self, admission: Admission, body: bytes) -> Response:
        request = _decode_spoken(body, EnrolRequest)
        known = admission.device
        if known is not None and known.population != request.population:
            raise Refused(
                ProblemCode.FORBIDDEN, "The token is of another population; enrol there without a token."
            )
        subject = await self._attestation.verify(request.attestation, request)
        enrolled = await self._service.enrol(
            request, known, user_proof=admission.headers.get(calls.USER_HEADER.lower()), subject=subject
        )
        self._personal.renamed(enrolled.device)
        identity = DeviceIdentity(enrolled.device, enrolled.population, enrolled.generation)
        enrolment = Enrolment(
            device=enrolled.device,
            token=self._device_tokens.issue(identity, self._clock()),
            expires_in_s=self._device_tokens.ttl_s,
            return_window=enrolled.return_window,
        )
        return MSGPACK.answer(enrolment)

    async def _forget(self, admission: Admission, _body: bytes) -> Response:
        scope = await self._service.erasure_scope(
            admission.identity,
            admission.headers.get(calls.USER_HEADER.lower()),
            is_whole_user=admission.is_whole_user(),
        )
        return MSGPACK.answer(await self._personal.forget(scope, self._service.forget))

    async def _check_in(self, admission: Admission, body: bytes) -> Response:
        message = _decode_spoken(body, CheckIn)
        answer = await self._service.check_in(admission.identity, message)
        outcome = "assigned" if isinstance(answer, Assignment) else answer.reason.value
        self.metrics.check_ins.labels(outcome).inc()
        if isinstance(answer, Assignment):
            network = network_of(message.conditions)
            self.metrics.codecs.labels(network, answer.codec["codec"]).inc()
        return MSGPACK.answer(answer)

    async def _release(self, admission: Admission, _body: bytes) -> Response:
        return MSGPACK.answer(await self._service.release(admission.own_population()))

    async def _vocabulary(self, admission: Admission, _body: bytes) -> Response:
        words = await self._service.vocabulary(admission.own_population())
        digest = hashlib.sha256(words).digest()
        return tagged(admission.headers, words, digest, calls.VOCABULARY_MEDIA_TYPE, caching.REVALIDATED)

    async def _offer(self, admission: Admission, body: bytes) -> Response:
        return MSGPACK.answer(await self._service.offer(admission.claims, wire.decode(body, Offer)))

    async def _report(self, admission: Admission, body: bytes) -> Response:
        report = wire.decode_bulky(body, _ReceivedReport, "delta")
        receipt = await self._service.report(admission.claims, report)
        self.metrics.reports.labels("duplicate" if receipt.duplicate else "counted").inc()
        if not receipt.duplicate:
            self.metrics.delta_bytes.labels(admission.claims.network).observe(len(report.delta))
        return MSGPACK.answer(receipt)

    async def _failure(self, admission: Admission, body: bytes) -> Response:
        failure = wire.decode(body, Failure)
        noted = await self._service.failure(admission.claims, failure)
        self.metrics.failures.labels(failure.cause).inc()
        return MSGPACK.answer(noted)


def _decode_spoken(body: bytes, kind: type[T]) -> T:
    """The message, unless the phone speaks another protocol: then its other fields may mean anything."""
    spoken = wire.decode(body, _Spoken).protocol
    if spoken != PROTOCOL:
        raise Refused(
            ProblemCode.PROTOCOL_UNSUPPORTED,
            f"This server speaks protocol {PROTOCOL}, the phone speaks {spoken}.",
        )
    return wire.decode(body, kind)
