"""This module builds the calls of a device: each message, and the bytes and headers that travel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from keyflock_client_sim.device.input_events import Trained
from keyflock_client_sim.device.installation import DeviceStatus, Installation
from keyflock_client_sim.device.wanted_models import WantedModel
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Credential, Request
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.messages import (
    PROTOCOL,
    Assignment,
    CheckIn,
    EnrolRequest,
    Failure,
    FailureCause,
    Offer,
    Report,
    TaskKind,
)
from keyflock_server.protocol.plans import ModelWeights


@dataclass(frozen=True, slots=True)
class OutgoingCall:
    """A call that is sent as often as it takes: its body is fixed, only its credentials may change."""

    endpoint: Call
    body: bytes = b""
    #: The values of the parameters in the endpoint's path.
    path_params: dict[str, str] = field(default_factory=dict)
    #: Headers beside those that every call has.
    headers: dict[str, str] = field(default_factory=dict)


def enrol(installation: Installation) -> OutgoingCall:
    """Return the call that enrols a device, or (with its old token) asks for a new token."""
    message = EnrolRequest(
        protocol=PROTOCOL,
        population=installation.population,
        app_build=installation.app_build,
        locale=installation.locale,
        capabilities=installation.capabilities,
        attestation=installation.attestation,
        user=installation.user,
        tier=installation.tier,
        tags=installation.tags,
    )
    return _outgoing_call(calls.ENROL, message)


def check_in(installation: Installation, status: DeviceStatus) -> OutgoingCall:
    """Return the call of a device that has time and asks for work."""
    message = CheckIn(
        protocol=PROTOCOL,
        app_build=installation.app_build,
        locale=installation.locale,
        conditions=status.conditions,
        examples=status.examples,
        capabilities=installation.capabilities,
        upload_budget_bytes=status.upload_budget_bytes,
    )
    return _outgoing_call(calls.CHECK_IN, message)


def model(wanted: WantedModel, stored: Sequence[bytes] = ()) -> OutgoingCall:
    """Return the call for a model, or for a delta to it from a stored one.

    Args:
        wanted: The model.
        stored: Digests of the downloads that are stored; without any, the call asks for the whole model.
    """
    call = calls.RELEASED_MODEL if wanted.weights is ModelWeights.RELEASED else calls.MODEL
    headers = {}
    # Without a content digest to check against, a delta would have to be believed.
    if stored and wanted.content_digest is not None:
        tags = ", ".join(f'"{digest.hex()}"' for digest in stored)
        headers = {"A-IM": calls.MODEL_DELTA, "If-None-Match": tags}
    return OutgoingCall(call, path_params={"version": str(wanted.version)}, headers=headers)


def offer(assignment: Assignment, trained: Trained) -> OutgoingCall:
    """Return the call that asks whether this report would still count."""
    message = Offer(size_bytes=len(trained.delta), model_version=assignment.model_version)
    return _outgoing_call(calls.OFFER, message, assignment)


def report(assignment: Assignment, trained: Trained, session_shape: str) -> OutgoingCall:
    """Return the call that uploads the delta, without measurements that are no finite numbers.

    A report of another kind than ``train`` holds the evidence only; measurements beside it would be one
    phone's own.
    """
    if assignment.task_kind is not TaskKind.TRAIN:
        evidence = Report(delta=trained.delta, examples=1, session_shape=session_shape)
        return _outgoing_call(calls.REPORT, evidence, assignment)
    message = Report(
        delta=trained.delta,
        examples=trained.examples,
        loss_before=_finite(trained.loss_before),
        loss_after=_finite(trained.loss_after),
        train_s=_finite(trained.train_s),
        session_shape=session_shape,
    )
    return _outgoing_call(calls.REPORT, message, assignment)


def failure(assignment: Assignment, cause: FailureCause, session_shape: str) -> OutgoingCall:
    """Return the call that says that there will be no delta."""
    return _outgoing_call(calls.FAILURE, Failure(cause=cause, session_shape=session_shape), assignment)


def request(outgoing: OutgoingCall, *, token: str | None, assignment_token: str | None) -> Request:
    """Return the request that travels, with the credentials that the call must show.

    Args:
        outgoing: The call.
        token: The device's token, when it has one; enrolment shows it to refresh it.
        assignment_token: The assignment's token; only calls about an assignment show it.
    """
    headers = {"Accept": calls.MEDIA_TYPE, **outgoing.headers}
    if outgoing.endpoint.request is not None:
        headers["Content-Type"] = calls.MEDIA_TYPE
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if assignment_token is not None and outgoing.endpoint.credential is Credential.ASSIGNMENT:
        headers[calls.ASSIGNMENT_HEADER] = assignment_token
    return Request(
        outgoing.endpoint.method,
        outgoing.endpoint.path.format(**outgoing.path_params),
        headers,
        outgoing.body,
    )


def _outgoing_call(call: Call, message: Message, assignment: Assignment | None = None) -> OutgoingCall:
    parts: dict[str, str] = {} if assignment is None else {"assignment": assignment.id}
    return OutgoingCall(call, wire.encode(message), parts)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
