"""An answer of the server as the value a device decides on: the message, or what is wrong."""

from dataclasses import dataclass
from typing import TypeVar

from keyflock_server.protocol import calls, wire
from keyflock_server.protocol.calls import Response
from keyflock_server.protocol.messages import CheckInAnswer, ReturnWindow
from keyflock_server.protocol.problems import PROBLEMS, Problem, ProblemCode, Refused

T = TypeVar("T")

#: Statuses that a proxy may answer with on its own, and that pass.
PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_RETRY_AFTER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Not the answer that the call was made for."""

    #: The problem's code, ``http_<status>`` or ``unreadable``.
    word: str
    #: None when the answer is no problem document of this protocol.
    code: ProblemCode | None
    #: Whether the same bytes may have success later.
    may_retry: bool
    #: When, if the server said so.
    retry: ReturnWindow | None = None


def read(response: Response, kind: type[T]) -> T | Trouble:
    """The message in ``response``, or what is wrong.

    Edge cases:
        a success that cannot be read -> may be retried: something on the way has damaged it
    """
    if response.status != 200:
        return trouble(response)
    try:
        return wire.decode(response.body, kind)
    except Refused:
        return Trouble("unreadable", None, may_retry=True)


def read_check_in(response: Response) -> CheckInAnswer | Trouble:
    """As ``read``, for the one call that has two kinds of answer."""
    return read(response, CheckInAnswer)  # type: ignore[arg-type]  # a union is no type[T] to mypy


def delta_base(response: Response, wanted: bytes) -> bytes | None:
    """Digest of the model that the delta in ``response`` applies to; None if it is none to the one wanted."""
    said = {name: response.headers.get(name, "").strip() for name in ("im", "etag", "delta-base")}
    if response.status != 226 or said["im"] != calls.MODEL_DELTA or said["etag"] != f'"{wanted.hex()}"':
        return None
    try:
        return bytes.fromhex(said["delta-base"].strip('"'))
    except ValueError:
        return None


def trouble(response: Response) -> Trouble:
    """What an answer that is no success says.

    Edge cases:
        no problem document, but a status of a proxy that passes -> may be retried, after ``Retry-After``
    """
    problem = _problem(response)
    if problem is None:
        passes = response.status in PASSING_STATUSES
        return Trouble(f"http_{response.status}", None, passes, _retry_after(response) if passes else None)
    may_retry = problem.retry is not None or PROBLEMS[problem.code].may_retry
    return Trouble(problem.code, problem.code, may_retry, problem.retry or _retry_after(response))


def _problem(response: Response) -> Problem | None:
    if response.headers.get("content-type", "").split(";")[0].strip() != calls.PROBLEM_MEDIA_TYPE:
        return None
    try:
        return wire.decode(response.body, Problem)
    except Refused:
        return None


def _retry_after(response: Response) -> ReturnWindow | None:
    """``Retry-After`` in seconds; its other form, a date, needs a clock that a phone does not trust."""
    said = response.headers.get("retry-after", "").strip()
    if not (said.isascii() and said.isdigit() and len(said) <= 9):
        return None
    earliest_s = min(float(said), _LONGEST_RETRY_AFTER_S)
    return ReturnWindow(min_s=earliest_s, max_s=1.5 * earliest_s + 1.0)
