"""A response of the server becomes the value that a device decides on: the message, or a ``CallError``."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

from keyflock_client_sim.device.effects import PatchModel
from keyflock_client_sim.device.memory import DeviceMemory
from keyflock_client_sim.device.wanted_models import WantedModel
from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import CheckInAnswer, ReturnWindow
from keyflock_server.protocol.problems import PROBLEMS, ApiError, Problem, ProblemCode

T = TypeVar("T")

#: A proxy may answer with these statuses on its own; a retry may succeed.
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
#: What a problem of a later release means: what its status does.
_CODES_BY_STATUS: Final = MappingProxyType({401: ProblemCode.TOKEN_INVALID, 410: ProblemCode.ROUND_GONE})
_NEEDS_NEW_IDENTITY: Final = frozenset(
    {ProblemCode.TOKEN_INVALID, ProblemCode.TOKEN_MISSING, ProblemCode.ENROLMENT_EXPIRED}
)
_MAX_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class CallError:
    """A response other than the one that the call was made for."""

    #: The problem's code, ``http_<status>`` or ``unreadable``, for logs.
    label: str
    #: None when the answer is no problem document of this protocol.
    code: ProblemCode | None
    #: Whether the same bytes may succeed later.
    may_retry: bool
    #: When to send again, if the server names a time.
    retry_window: ReturnWindow | None = None

    @property
    def needs_new_identity(self) -> bool:
        """Whether the device's token is of no use any more, not even to refresh it."""
        return self.code in _NEEDS_NEW_IDENTITY


class _ReceivedProblem(Problem, frozen=True, kw_only=True):
    """A problem document of this release or a later one."""

    code: str  # type: ignore[assignment]  # one that is not known yet is no enum member


def read(response: Response, kind: type[T]) -> T | CallError:
    """Return the message in ``response``, or the error.

    Edge cases:
        a success that cannot be decoded -> may be retried: something on the way has damaged it
    """
    if response.status != 200:
        return error_of(response)
    try:
        return wire.decode(response.body, kind)
    except ApiError:
        return CallError("unreadable", None, may_retry=True)


def read_check_in(response: Response) -> CheckInAnswer | CallError:
    """Do what ``read`` does, for the one call that has two kinds of answer."""
    return read(response, CheckInAnswer)  # type: ignore[arg-type]  # a union is no type[T] to mypy


def delta_base(response: Response, wanted: bytes) -> bytes | None:
    """Return the digest of the delta's base; None if ``response`` is no delta to the wanted model."""
    headers = {name: response.headers.get(name, "").strip() for name in ("im", "etag", "delta-base")}
    if response.status != 226 or headers["im"] != calls.MODEL_DELTA or headers["etag"] != f'"{wanted.hex()}"':
        return None
    try:
        return bytes.fromhex(headers["delta-base"].strip('"'))
    except ValueError:
        return None


def read_delta(response: Response, wanted: WantedModel, memory: DeviceMemory) -> PatchModel | None:
    """Return how to patch a stored model into the wanted one; None if the response holds no such delta."""
    base = delta_base(response, wanted.digest)
    if wanted.content_digest is None or base not in memory.stored_models:
        return None
    return PatchModel(
        digest=wanted.digest,
        base=base,
        delta=response.body,
        content_digest=wanted.content_digest,
        evicted=memory.evicted_models(),
    )


def error_of(response: Response) -> CallError:
    """Return the error that a response without success carries.

    Edge cases:
        no problem document, or a code of a later release, but a transient status -> may be retried, after
        ``Retry-After``
    """
    problem = _problem(response)
    if problem is not None and problem.code in PROBLEMS:
        code = ProblemCode(problem.code)
        may_retry = problem.retry is not None or PROBLEMS[code].may_retry
        return CallError(code, code, may_retry, problem.retry or _retry_after(response))
    passes = response.status in TRANSIENT_STATUSES
    retry = _retry_after(response) if passes else None
    label = f"http_{response.status}"
    if problem is None:
        return CallError(label, None, passes, retry)
    by_status = _CODES_BY_STATUS.get(response.status)
    return CallError(label, by_status, passes or problem.retry is not None, problem.retry or retry)


def _problem(response: Response) -> _ReceivedProblem | None:
    if response.headers.get("content-type", "").split(";")[0].strip() != calls.PROBLEM_MEDIA_TYPE:
        return None
    try:
        return wire.decode(response.body, _ReceivedProblem)
    except ApiError:
        return None


def _retry_after(response: Response) -> ReturnWindow | None:
    """Read ``Retry-After`` in seconds; its other form, a date, needs a clock that a phone does not trust."""
    header = response.headers.get("retry-after", "").strip()
    if not (header.isascii() and header.isdigit() and len(header) <= 9):
        return None
    earliest_s = min(float(header), _MAX_RETRY_AFTER_S)
    return ReturnWindow(min_s=earliest_s, max_s=1.5 * earliest_s + 1.0)
