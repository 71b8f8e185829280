"""The calls that a device makes: each message, and the bytes and headers that travel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from keyflock_client_sim.device.events import Trained
from keyflock_client_sim.device.installation import Circumstances, Installation
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Call, Credential, Request
from keyflock_server.protocol.messages import (
    PROTOCOL,
    Assignment,
    CheckIn,
    EnrolRequest,
    Failure,
    FailureCause,
    Message,
    ModelWeights,
    Offer,
    Report,
    TaskKind,
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A call that is to be made, as often as it takes: its body is fixed, only its credentials may change."""

    call: Call
    body: bytes = b""
    #: What fills the braces in the call's path.
    parts: dict[str, str] = field(default_factory=dict)
    #: Beside those that every call has.
    headers: dict[str, str] = field(default_factory=dict)


def enrol(installation: Installation) -> Outgoing:
    """A device introduces itself, or (with its old token) asks for a new token."""
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
    return _outgoing(calls.ENROL, message)


def check_in(installation: Installation, circumstances: Circumstances) -> Outgoing:
    """A device has time, and asks for work."""
    message = CheckIn(
        protocol=PROTOCOL,
        app_build=installation.app_build,
        locale=installation.locale,
        conditions=circumstances.conditions,
        examples=circumstances.examples,
        capabilities=installation.capabilities,
        upload_budget_bytes=circumstances.upload_budget_bytes,
    )
    return _outgoing(calls.CHECK_IN, message)


def model(assignment: Assignment, has: Sequence[bytes] = ()) -> Outgoing:
    """The model to start from, or a delta to it from one that the phone has.

    Args:
        assignment: Names the model.
        has: Digests of the downloads that are stored; none asks for the whole.
    """
    plan = assignment.personalising
    is_released = plan is not None and plan.weights is ModelWeights.RELEASED
    call = calls.RELEASED_MODEL if is_released else calls.MODEL
    headers = {}
    # Without a content digest to check against, a delta would have to be believed.
    if has and assignment.content_digest is not None:
        tags = ", ".join(f'"{digest.hex()}"' for digest in has)
        headers = {"A-IM": calls.MODEL_DELTA, "If-None-Match": tags}
    return Outgoing(call, parts={"version": str(assignment.model_version)}, headers=headers)


def offer(assignment: Assignment, trained: Trained) -> Outgoing:
    """Would this report still count?"""
    message = Offer(size_bytes=len(trained.delta), model_version=assignment.model_version)
    return _outgoing(calls.OFFER, message, assignment)


def report(assignment: Assignment, trained: Trained, session_shape: str) -> Outgoing:
    """The delta. A measurement that is no finite number is left out, for the server would refuse it.

    Of ``personalize``, only the evidence: what was measured is in it, and beside it would be one phone's own.
    """
    if is_personal(assignment):
        evidence = Report(delta=trained.delta, examples=1, session_shape=session_shape)
        return _outgoing(calls.REPORT, evidence, assignment)
    message = Report(
        delta=trained.delta,
        examples=trained.examples,
        loss_before=_finite(trained.loss_before),
        loss_after=_finite(trained.loss_after),
        train_s=_finite(trained.train_s),
        session_shape=session_shape,
    )
    return _outgoing(calls.REPORT, message, assignment)


def is_personal(assignment: Assignment) -> bool:
    """Whether it asks for evidence of personalisation."""
    return assignment.task_kind is TaskKind.PERSONALIZE


def failure(assignment: Assignment, cause: FailureCause, session_shape: str) -> Outgoing:
    """There will be no delta."""
    return _outgoing(calls.FAILURE, Failure(cause=cause, session_shape=session_shape), assignment)


def request(what: Outgoing, *, token: str | None, assignment_token: str | None) -> Request:
    """What travels, with the credentials that the call must show.

    Args:
        what: The call.
        token: The device's, when it has one; enrolment shows it to renew it.
        assignment_token: Shown by calls about an assignment only.
    """
    headers = {"Accept": calls.MEDIA_TYPE, **what.headers}
    if what.call.request is not None:
        headers["Content-Type"] = calls.MEDIA_TYPE
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if assignment_token is not None and what.call.credential is Credential.ASSIGNMENT:
        headers[calls.ASSIGNMENT_HEADER] = assignment_token
    return Request(what.call.method, what.call.path.format(**what.parts), headers, what.body)


def _outgoing(call: Call, message: Message, assignment: Assignment | None = None) -> Outgoing:
    parts: dict[str, str] = {} if assignment is None else {"assignment": assignment.id}
    return Outgoing(call, wire.encode(message), parts)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
