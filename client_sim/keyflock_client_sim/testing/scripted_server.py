"""A small server in memory follows the protocol, and breaks it where a script says so.

It tests phones and drivers without a real server: it enrols, assigns one round after the other, counts every
report once, and makes a new model version when a round has its goal. What is to go wrong is scripted by call:

    server = ScriptedServer(goal=4)
    server.script("report", ConnectionError(), problem(ProblemCode.OVERLOADED))

It records what arrived, so that a test can compare that with a phone's counters.
"""

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Call, Request, Response
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.identifiers import AssignmentId, DeviceId, ModelVersion, RoundId, TaskName
from keyflock_server.protocol.messages import Assignment, ReturnWindow
from keyflock_server.protocol.plans import TrainingPlan
from keyflock_server.protocol.problems import ApiError, ProblemCode

#: The result of one call instead of its answer; with a ConnectionError the answer is lost.
ScriptedFault = Response | ConnectionError

TASK: Final = TaskName("scripted")
LAYOUT: Final = bytes(16)


def success_response(message: Message) -> Response:
    """Return a success that carries this message."""
    return Response(200, {"content-type": calls.MEDIA_TYPE}, wire.encode(message))


def problem_response(code: ProblemCode, retry: ReturnWindow | None = None) -> Response:
    """Return a problem document, as the real server words it."""
    document = ApiError(code, "As scripted.", retry).document()
    return Response(document.status, {"content-type": calls.PROBLEM_MEDIA_TYPE}, wire.encode(document))


class ScriptedServer:
    """An ``InProcessServer`` that counts.

    Args:
        goal: Reports that close a round.
        window: The return window of every answer.
        expires_in_s: The lifetime of an assignment.
        max_rounds: After so many rounds there is no more work.
        min_flush: Reports wait until so many of the round have come.
        serves_deltas: Whether it serves deltas between versions; no driver can apply them.
    """

    def __init__(
        self,
        *,
        goal: int = 4,
        window: ReturnWindow | None = None,
        expires_in_s: float = 600.0,
        max_rounds: int | None = None,
        min_flush: int = 1,
        serves_deltas: bool = False,
    ) -> None:
        self.goal = goal
        self.window = window or ReturnWindow(min_s=1.0, max_s=2.0)
        self.expires_in_s = expires_in_s
        self.max_rounds = max_rounds
        self.min_flush = min_flush
        self.serves_deltas = serves_deltas
        #: The name and the body of every call that arrived, in order.
        self.arrived: list[tuple[str, bytes]] = []
        #: The report of each assignment, once it was counted.
        self.counted: dict[AssignmentId, bytes] = {}
        #: The number of reports that closed each round.
        self.closed: list[int] = []
        self.ticks = 0
        self._faults: dict[str, deque[ScriptedFault]] = defaultdict(deque)
        self._tokens: dict[str, DeviceId] = {}
        self._waiting: dict[AssignmentId, bytes] = {}
        self._handlers: dict[str, Callable[[Request, str], Response]] = {
            calls.ENROL.name: self._enrol,
            calls.CHECK_IN.name: self._check_in,
            calls.MODEL.name: self._model,
            calls.OFFER.name: self._offer,
            calls.REPORT.name: self._report,
            calls.FAILURE.name: self._failure,
        }

    @property
    def version(self) -> ModelVersion:
        """Return the newest version."""
        return ModelVersion(len(self.closed))

    def script(self, call: str, *faults: ScriptedFault) -> None:
        """Script what happens to the next calls of this name, one after the other."""
        self._faults[call].extend(faults)

    def model_body(self, version: int) -> bytes:
        """Return the bytes that a phone downloads."""
        return f"model {version} ".encode() * 100

    def content_digest(self, version: int) -> bytes:
        """Return the content digest that a delta to this version must lead to."""
        return hashlib.sha256(b"content of " + self.model_body(version)).digest()

    async def tick(self) -> None:
        """Count the tick."""
        self.ticks += 1

    async def send(self, request: Request) -> Response:
        """Answer the request; see ``Exchange``. Where the answer is lost, the call was acted on."""
        call, part = _route(request)
        self.arrived.append((call.name, request.body))
        faults = self._faults[call.name]
        fault = faults.popleft() if faults else None
        if isinstance(fault, Response):
            return fault
        answered = self._handlers[call.name](request, part)
        if fault is not None:
            raise fault
        return answered

    def _enrol(self, request: Request, _part: str) -> Response:
        device = self._device(request) or DeviceId(f"device-{len(set(self._tokens.values()))}")
        token = f"token-{len(self._tokens)}"
        self._tokens[token] = device
        return success_response(
            messages.Enrolment(device=device, token=token, expires_in_s=86_400.0, return_window=self.window)
        )

    def _check_in(self, request: Request, _part: str) -> Response:
        device = self._device(request)
        if device is None:
            return problem_response(ProblemCode.TOKEN_INVALID)
        if self.max_rounds is not None and self.version >= self.max_rounds:
            return self._refusal(messages.RefusalReason.NO_ACTIVE_TASK)
        assignment = AssignmentId(f"{device}.{self.version}")
        if assignment in self.counted:
            return self._refusal(messages.RefusalReason.TOO_SOON)
        return success_response(
            Assignment(
                id=assignment,
                token=f"assignment-{assignment}",
                task=TASK,
                round=RoundId(f"{TASK}-{self.version}"),
                model_version=self.version,
                model_digest=hashlib.sha256(self.model_body(self.version)).digest(),
                layout=LAYOUT,
                plan=TrainingPlan(learning_rate=0.1),
                codec={"codec": "dense"},
                seed=self.version,
                expires_in_s=self.expires_in_s,
                content_digest=self.content_digest(self.version) if self.serves_deltas else None,
            )
        )

    def _model(self, request: Request, part: str) -> Response:
        body = self.model_body(int(part))
        headers = {"content-type": calls.MODEL_MEDIA_TYPE, "etag": _etag(body)}
        if "A-IM" in request.headers:
            for version in range(int(part) - 1, -1, -1):
                base = _etag(self.model_body(version))
                if base in request.headers["If-None-Match"]:
                    named = {"im": calls.MODEL_DELTA, "delta-base": base}
                    return Response(226, headers | named, f"from {version} to {part}".encode())
        return Response(200, headers, body)

    def _offer(self, _request: Request, part: str) -> Response:
        is_open = _version(part) == self.version
        action = messages.OfferAction.SEND if is_open else messages.OfferAction.DROP
        return success_response(messages.OfferAnswer(action=action, return_window=self.window))

    def _report(self, request: Request, part: str) -> Response:
        assignment = AssignmentId(part)
        if assignment in self.counted:
            if self.counted[assignment] != request.body:
                return problem_response(ProblemCode.REPORT_CONFLICT)
            return success_response(messages.Receipt(counted=True, duplicate=True, return_window=self.window))
        if _version(part) != self.version:
            return problem_response(ProblemCode.ROUND_GONE)
        self._waiting[assignment] = request.body
        of_round = sum(_version(each) == self.version for each in self.counted) + len(self._waiting)
        if of_round < self.min_flush:
            return problem_response(ProblemCode.REPORT_PENDING)
        self.counted |= self._waiting
        self._waiting.clear()
        if of_round >= self.goal:
            self.closed.append(of_round)
        return success_response(messages.Receipt(counted=True, return_window=self.window))

    def _failure(self, _request: Request, _part: str) -> Response:
        return success_response(messages.FailureAck(return_window=self.window))

    def _refusal(self, reason: messages.RefusalReason) -> Response:
        return success_response(messages.Refusal(reason=reason, return_window=self.window))

    def _device(self, request: Request) -> DeviceId | None:
        return self._tokens.get(request.headers.get("Authorization", "").removeprefix("Bearer "))


def _etag(body: bytes) -> str:
    return f'"{hashlib.sha256(body).hexdigest()}"'


def _version(assignment: str) -> int:
    return int(assignment.rpartition(".")[2])


def _route(request: Request) -> tuple[Call, str]:
    """Return the endpoint, and the parameter in its path."""
    for call in calls.CALLS:
        before, brace, after = call.path.partition("{")
        tail = after.partition("}")[2]
        fits = request.path.startswith(before) and request.path.endswith(tail)
        if call.method == request.method and fits and (brace or request.path == call.path):
            return call, request.path.removeprefix(before).removesuffix(tail) if brace else ""
    raise AssertionError(f"no such endpoint: {request.method} {request.path}")
