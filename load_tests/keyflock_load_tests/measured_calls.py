"""Every call leaves a sample: when it was due, when it was sent, when and how it ended."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyflock_load_tests.connection import Connection
from keyflock_load_tests.measurement import LOST_ON_PURPOSE, Measurements, Sample
from keyflock_server.protocol import calls, messages, wire
from keyflock_server.protocol.calls import Call, Request, Response
from keyflock_server.protocol.fields import Message
from keyflock_server.protocol.operator.call import AnyCall
from keyflock_server.protocol.problems import ApiError, Problem, ProblemCode

_RETRIED: Final = frozenset(
    {
        *("lost", "timeout"),
        *(ProblemCode.REPORT_PENDING, ProblemCode.OVERLOADED, ProblemCode.NOT_READY),
    }
)


class CallFailure(Exception):
    """The call was not successful.

    Args:
        outcome: A problem's code, or ``lost``, ``timeout``, ``http_<status>``.
        retry_after_s: What the server asks the phone to wait, if it says so.
    """

    def __init__(self, outcome: str, retry_after_s: float | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.retry_after_s = retry_after_s
        #: Whether nothing had been sent before it, so that the server cannot have done what was asked.
        self.was_first = False

    @property
    def may_retry(self) -> bool:
        """Return whether the same bytes should be sent again."""
        return self.outcome in _RETRIED


@dataclass(frozen=True, slots=True)
class MeasuredCalls:
    """Sends requests and measures them.

    Args:
        clock: Seconds since the start of the run.
        measurements: Where samples go.
        answer_timeout_s: How long any one answer is waited for.
        suffix: Ends the name of each call, for phones that have rows of their own in the report.
    """

    clock: Callable[[], float]
    measurements: Measurements
    answer_timeout_s: float
    suffix: str = ""

    async def send(
        self, connection: Connection, call: Call | AnyCall, request: Request, *, due_at_s: float
    ) -> Response:
        """Send a request and return its answer.

        Args:
            connection: The phone's connection.
            call: Which row of the report this is.
            request: What to send.
            due_at_s: When a phone on an idle machine would have sent it. Latency counts from here.
        Raises:
            CallFailure: anything else than a 2xx answer in time.
        """
        sent_at_s = self.clock()
        try:
            async with asyncio.timeout(self.answer_timeout_s):
                response = await connection.send(request)
        except TimeoutError:
            self._record(call, due_at_s, sent_at_s, "timeout")
            raise CallFailure("timeout") from None
        except ConnectionError:
            self._record(call, due_at_s, sent_at_s, "lost")
            raise CallFailure("lost") from None
        if 200 <= response.status < 300:
            self._record(call, due_at_s, sent_at_s, "ok", response.status)
            return response
        failure = _failure(response)
        self._record(call, due_at_s, sent_at_s, failure.outcome, response.status)
        raise failure

    async def send_and_hang_up(
        self, connection: Connection, call: Call, request: Request, *, due_at_s: float
    ) -> None:
        """Send, and lose the connection before the answer; the sample is no latency."""
        sent_at_s = self.clock()
        await connection.send_and_hang_up(request)
        self._record(call, due_at_s, sent_at_s, LOST_ON_PURPOSE)

    def _record(
        self, call: Call | AnyCall, due_at_s: float, sent_at_s: float, outcome: str, status: int = 0
    ) -> None:
        self.measurements.samples.append(
            Sample(call.name + self.suffix, due_at_s, sent_at_s, self.clock(), outcome, status)
        )


def request_of(
    call: Call,
    token: str,
    *,
    message: Message | None = None,
    assignment: messages.Assignment | None = None,
    **path_parts: str | int,
) -> Request:
    """Return ``call`` as a phone would send it, with its credentials and body."""
    headers = {"Accept": calls.MEDIA_TYPE}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if assignment is not None:
        headers[calls.ASSIGNMENT_HEADER] = assignment.token
        path_parts["assignment"] = assignment.id
    if message is not None:
        headers["Content-Type"] = calls.MEDIA_TYPE
    body = b"" if message is None else wire.encode(message)
    return Request(call.method, call.path.format(**path_parts), headers, body)


def _failure(response: Response) -> CallFailure:
    try:
        problem = wire.decode(response.body, Problem)
    except ApiError:
        return CallFailure(f"http_{response.status}")
    return CallFailure(problem.code, problem.retry.min_s if problem.retry else None)
