"""The endpoints that phones call: they check credentials, decode messages and encode answers."""

import contextlib
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

import msgspec

from keyflock_server.coordinator.check_in import CheckInService
from keyflock_server.coordinator.data_export import DataExportService
from keyflock_server.coordinator.downlink import Downlink
from keyflock_server.coordinator.enrolment import EnrolmentService
from keyflock_server.coordinator.erasure import ErasureService
from keyflock_server.coordinator.model_store import ModelStore
from keyflock_server.coordinator.report_service import ReportService
from keyflock_server.http import caching
from keyflock_server.http.authenticated_call import (
    AuthenticatedCall,
    assignment_token_missing,
    device_token_missing,
)
from keyflock_server.http.endpoint_group import Clock, EndpointGroup, ReadBody, bearer
from keyflock_server.http.enrolment_limits import EnrolmentLimits
from keyflock_server.http.etags import etag_response
from keyflock_server.http.model_downloads import ModelDownloadEndpoints
from keyflock_server.http.personal_endpoints import PersonalEndpoints
from keyflock_server.http.readiness import Readiness
from keyflock_server.http.responses import MSGPACK
from keyflock_server.http.routes import Routes, query_string
from keyflock_server.identity.assignment_tokens import AssignmentTokens
from keyflock_server.identity.attestation import Attestation
from keyflock_server.identity.claims import AssignmentClaims, DeviceIdentity
from keyflock_server.identity.device_tokens import DeviceTokens
from keyflock_server.identity.revocations import Revocations
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Credential, Request, Response
from keyflock_server.protocol.identifiers import PopulationName
from keyflock_server.protocol.messages import (
    PROTOCOL,
    CheckIn,
    Enrolment,
    EnrolRequest,
    Failure,
    Offer,
    Refusal,
    Report,
)
from keyflock_server.protocol.problems import ApiError, ProblemCode
from keyflock_server.telemetry.log_context import note_round
from keyflock_server.telemetry.metrics import Metrics


class _Versioned(Protocol):
    """A message that names the version of its protocol."""

    @property
    def protocol(self) -> int: ...


V = TypeVar("V", bound=_Versioned)


class _ProtocolField(msgspec.Struct):
    """The only field that a message of another protocol version is decoded to."""

    protocol: int


class _ReceivedReport(Report, frozen=True, kw_only=True):
    """A report whose delta is a view of the request's body, not a copy."""

    delta: memoryview  # type: ignore[assignment]  # readers treat it like bytes


class SdkEndpoints(EndpointGroup[Call]):
    """Serves every call of ``protocol.calls.CALLS``.

    Args:
        enrolments: Enrols phones and refreshes their tokens.
        erasure: Answers forget-me.
        exports: Says what is stored.
        check_ins: Assigns work.
        reports: Accepts what phones send back.
        models: Gives model versions and vocabularies.
        downlink: Gives releases, and deltas between versions.
        personal: The endpoints about personal models and suggestions.
        device_tokens: Issues and reads device tokens.
        revocations: Knows which device tokens are void.
        assignment_tokens: Reads assignment tokens.
        attestation: Checks a phone's evidence at enrolment.
        clock: Returns the current time, aware UTC.
        readiness: Says whether the server takes work now.
        metrics: Counts outcomes.
        enrolment_limits: Limits how many phones may enrol; None: any number. A refresh is not an enrolment.
    """

    def __init__(
        self,
        *,
        enrolments: EnrolmentService,
        erasure: ErasureService,
        exports: DataExportService,
        check_ins: CheckInService,
        reports: ReportService,
        models: ModelStore,
        downlink: Downlink,
        personal: PersonalEndpoints,
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
            media_types={call.name: (call.media_type,) for call in calls.CALLS},
            readiness=readiness,
            metrics=metrics,
        )
        self._enrolments = enrolments
        self._erasure = erasure
        self._exports = exports
        self._check_ins = check_ins
        self._reports = reports
        self._models = models
        self._downlink = downlink
        self._personal = personal
        self._device_tokens = device_tokens
        self._revocations = revocations
        self._assignment_tokens = assignment_tokens
        self._attestation = attestation
        self._clock = clock
        self._enrolment_limits = enrolment_limits
        self._refused_check_ins = metrics.check_ins.labels
        self._reported = metrics.reports.labels
        self._delta_bytes = metrics.delta_bytes.labels
        downloads = ModelDownloadEndpoints(models, downlink, metrics)
        self._handlers: dict[str, Callable[[AuthenticatedCall, bytes], Awaitable[Response]]] = {
            calls.ENROL.name: self._enrol,
            calls.FORGET.name: self._forget,
            calls.STORED_DATA.name: self._stored_data,
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

    async def _answer(
        self, call: Call, path_params: Mapping[str, str], head: Request, read_body: ReadBody
    ) -> Response:
        self._readiness.require()
        authenticated = self._authenticate(call, path_params, head.headers, head)
        return await self._dispatch(call, authenticated, await self._body(call, head, read_body))

    def _authenticate(
        self, call: Call, path_params: Mapping[str, str], headers: Mapping[str, str], head: Request
    ) -> AuthenticatedCall:
        now = self._clock()
        token = bearer(headers)
        if call.credential is Credential.NONE:
            if token is None:
                if self._enrolment_limits is not None:
                    self._enrolment_limits.admit(head, now.timestamp())
                return AuthenticatedCall(path_params, headers)
            device = self._device_tokens.read_for_refresh(token, now)
            return AuthenticatedCall(
                path_params, headers, device, revocation_key=self._revocations.check(device, now)
            )
        if token is None:
            raise device_token_missing()
        device = self._device_tokens.read(token, now)
        revocation_key = self._revocations.check(device, now)
        is_about_assignment = call.credential is Credential.ASSIGNMENT
        return AuthenticatedCall(
            path_params,
            headers,
            device,
            self._assignment_claims(call, path_params, headers, device) if is_about_assignment else None,
            query=query_string(head.path),
            revocation_key=revocation_key,
        )

    def _assignment_claims(
        self, call: Call, path_params: Mapping[str, str], headers: Mapping[str, str], device: DeviceIdentity
    ) -> AssignmentClaims:
        token = headers.get(calls.ASSIGNMENT_HEADER.lower())
        if token is None:
            raise assignment_token_missing()
        if call.name == calls.REPORT.name:
            # A counted report is acknowledged at any time; after the expiry no new one is accepted.
            claims = self._assignment_tokens.read_late(token)
        else:
            claims = self._assignment_tokens.read(token, self._clock())
        if claims.device != device.device or claims.population != device.population:
            raise ApiError(ProblemCode.WRONG_ASSIGNMENT, "The assignment was given to another device.")
        if claims.assignment != path_params["assignment"]:
            raise ApiError(
                ProblemCode.WRONG_ASSIGNMENT, "The token is for another assignment than the address."
            )
        note_round(claims.round, claims.task)
        return claims

    async def _dispatch(self, call: Call, authenticated: AuthenticatedCall, body: bytes) -> Response:
        if authenticated.device is not None:  # a slow body may outlive its token
            self._revocations.check(authenticated.device, self._clock(), authenticated.revocation_key)
        if "population" in authenticated.path_params:
            authenticated = await self._with_own_population(authenticated)
        return await self._handlers[call.name](authenticated, body)

    async def _with_own_population(self, call: AuthenticatedCall) -> AuthenticatedCall:
        """Return the call, marked if the population in its path is the device's under another name."""
        path = call.path_params["population"]
        if call.device is None or path == call.device.population:
            return call
        if not path.isprintable():  # PostgreSQL fails where it is asked for such a text
            return call
        with contextlib.suppress(ApiError):
            is_own = await self._models.resolve_for_phone(path) == call.device.population
            return msgspec.structs.replace(call, is_own_name=is_own)
        return call

    async def _enrol(self, call: AuthenticatedCall, body: bytes) -> Response:
        request = _decode_versioned(body, EnrolRequest)
        known = call.device
        if known is not None and known.population != await self._models.resolve_for_phone(request.population):
            raise ApiError(
                ProblemCode.FORBIDDEN, "The token is of another population; enrol there without a token."
            )
        subject = await self._attestation.verify(request.attestation, request)
        enrolled = await self._enrolments.enrol(
            request, known, user_proof=call.headers.get(calls.USER_HEADER.lower()), subject=subject
        )
        self._personal.owner_changed(enrolled.device)
        identity = DeviceIdentity(
            enrolled.device,
            enrolled.population,
            enrolled.generation,
            is_described=True,
            tier=enrolled.tier,
            tags=enrolled.tags,
            last_contributed_at=enrolled.last_contributed_at,
        )
        enrolment = Enrolment(
            device=enrolled.device,
            token=self._device_tokens.issue(identity, self._clock()),
            expires_in_s=self._device_tokens.ttl_s,
            return_window=enrolled.return_window,
        )
        return MSGPACK.response(enrolment)

    async def _forget(self, call: AuthenticatedCall, _body: bytes) -> Response:
        targets = await self._erasure.targets(
            call.identity,
            call.headers.get(calls.USER_HEADER.lower()),
            is_whole_user=call.is_about_whole_user(),
        )
        return MSGPACK.response(await self._personal.forget(targets, self._erasure.forget))

    async def _stored_data(self, call: AuthenticatedCall, _body: bytes) -> Response:
        stored = await self._exports.stored_data(
            call.identity,
            call.headers.get(calls.USER_HEADER.lower()),
            is_whole_user=call.is_about_whole_user(),
        )
        return MSGPACK.response(stored)

    async def _check_in(self, call: AuthenticatedCall, body: bytes) -> Response:
        message = _decode_versioned(body, CheckIn)
        answer = await self._check_ins.check_in(call.identity, message)
        if isinstance(answer, Refusal):  # the coordinator knows which assignments are new
            self._refused_check_ins(answer.reason).inc()
        return MSGPACK.response(answer)

    async def _release(self, call: AuthenticatedCall, _body: bytes) -> Response:
        release = await self._downlink.release(call.own_population(), call.identity.device)
        # The phone knows the population by the name that it was shipped with.
        asked = PopulationName(call.path_params["population"])
        return MSGPACK.response(msgspec.structs.replace(release, population=asked))

    async def _vocabulary(self, call: AuthenticatedCall, _body: bytes) -> Response:
        words = await self._models.vocabulary(call.own_population())
        digest = _vocabulary_digest(words)
        return etag_response(call.headers, words, digest, calls.VOCABULARY_MEDIA_TYPE, caching.REVALIDATED)

    async def _offer(self, call: AuthenticatedCall, body: bytes) -> Response:
        return MSGPACK.response(await self._reports.offer(call.claims, wire.decode(body, Offer)))

    async def _report(self, call: AuthenticatedCall, body: bytes) -> Response:
        report = wire.decode_bulky(body, _ReceivedReport, "delta")
        receipt = await self._reports.report(call.claims, report)
        self._reported("duplicate" if receipt.duplicate else "counted").inc()
        if not receipt.duplicate:
            self._delta_bytes(call.claims.network).observe(len(report.delta))
        return MSGPACK.response(receipt)

    async def _failure(self, call: AuthenticatedCall, body: bytes) -> Response:
        return MSGPACK.response(await self._reports.failure(call.claims, wire.decode(body, Failure)))


@functools.lru_cache(maxsize=16)
def _vocabulary_digest(words: bytes) -> bytes:
    # The model store gives the same object again, whose hash for this cache is computed once.
    return hashlib.sha256(words).digest()


def _decode_versioned(body: bytes, kind: type[V]) -> V:
    """Decode a message of this protocol's version; in another version its fields may mean anything."""
    try:
        message = wire.decode(body, kind)
    except ApiError:
        _require_protocol(wire.decode(body, _ProtocolField))
        raise
    _require_protocol(message)
    return message


def _require_protocol(message: "_Versioned") -> None:
    if message.protocol != PROTOCOL:
        raise ApiError(
            ProblemCode.PROTOCOL_UNSUPPORTED,
            f"This server speaks protocol {PROTOCOL}, the phone speaks {message.protocol}.",
        )
